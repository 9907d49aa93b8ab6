"""Opening models and refusing what cannot be honoured."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from llm_cases import GREEDY, QUESTION, TINY, pool_is_whole

from linnet import (
    LLM,
    ChatTemplateError,
    ClosedError,
    ContextLengthError,
    InvalidRequestError,
    ModelFileError,
    OutOfMemoryError,
    SamplingParams,
    Tokenizer,
)
from linnet.engine.page_plan import page_bytes
from linnet.model_options import ModelOptions
from linnet.tensors import TYPES


def state_dict() -> tuple[dict[str, Any], dict[str, Any]]:
    safetensors = pytest.importorskip("safetensors.numpy")
    return json.loads((TINY / "config.json").read_text()), safetensors.load_file(TINY / "model.safetensors")


def test_from_state_dict_is_the_folder(native: LLM) -> None:
    config, tensors = state_dict()
    expected = native.chat(QUESTION, GREEDY).token_ids
    with LLM.from_state_dict(config, tensors, tokenizer=TINY) as llm:
        assert llm.chat(QUESTION, GREEDY).token_ids == expected
    with LLM.from_state_dict(native.spec, tensors, tokenizer=Tokenizer(TINY)) as llm:
        assert llm.chat(QUESTION, GREEDY).token_ids == expected
    torch = pytest.importorskip("torch")
    with LLM.from_state_dict(config, {k: torch.tensor(v) for k, v in tensors.items()}, ops="reference") as llm:
        assert llm.generate(native.chat(QUESTION, GREEDY).prompt_token_ids, GREEDY)[0].token_ids == expected


def test_from_state_dict_lists_what_is_missing_and_unexpected() -> None:
    config, tensors = state_dict()
    tensors["model.extra.weight"] = tensors.pop("model.norm.weight")
    with pytest.raises(ModelFileError, match=r"missing: model\.norm\.weight.*unexpected: model\.extra\.weight"):
        LLM.from_state_dict(config, tensors)
    tensors["model.norm.weight"] = tensors["model.extra.weight"]
    with LLM.from_state_dict(config, tensors, strict=False) as llm:
        assert llm.logits([1, 2]).shape == (2, 1328)
    with pytest.raises(InvalidRequestError, match="there is no option 'quantize'"):
        LLM.from_state_dict(config, tensors, quantize="q4_0")


def test_without_a_tokenizer_token_ids_still_work() -> None:
    config, tensors = state_dict()
    with LLM.from_state_dict(config, tensors) as llm:
        assert llm.tokenizer is None
        completion = llm.generate([1, 304, 280], GREEDY)[0]
        assert completion.text == ""
        assert completion.token_ids[-1] == 4
        assert llm.trace([1, 304], top=2, params=GREEDY)[0].chosen.text == ""
        for prompt in ("text", QUESTION):
            with pytest.raises(InvalidRequestError, match="has no tokenizer"):
                llm.generate(prompt)
        with pytest.raises(InvalidRequestError, match="stop texts need a tokenizer"):
            llm.generate([1, 2], SamplingParams(stop="x"))


@pytest.fixture(scope="module")
def untemplated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untemplated")
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


@pytest.fixture(scope="module")
def sentencepiece_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LLM, Any]]:
    """A folder whose only tokenizer is a SentencePiece file, opened, and the library's own reader of that file."""
    folder = tmp_path_factory.mktemp("models") / "pieces"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("tokenizer*", "*.jinja", "*.py", "README.md"))
    text = "the fox and the owl lived near the river and the forest"
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text] * 20), model_writer=file, vocab_size=40, model_type="bpe", minloglevel=2
        )
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with LLM(folder, chat_template=template) as llm:
        yield llm, sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_folder_may_have_only_a_sentencepiece_file(sentencepiece_llm: tuple[LLM, Any]) -> None:
    llm, reference = sentencepiece_llm
    completion = llm.generate("the owl", SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True))[0]
    assert completion.prompt_token_ids == [reference.bos_id(), *reference.encode("the owl")]
    assert llm.tokenizer is not None
    assert "the owl" + completion.text == llm.tokenizer.decode([*completion.prompt_token_ids, *completion.token_ids])


def test_an_answer_goes_on_with_a_text_and_else_begins_one(sentencepiece_llm: tuple[LLM, Any]) -> None:
    """The space of a first word that continues a text belongs to the answer, as with every library that decodes prompt and answer together;
    after token ids or messages there is no text to go on with."""
    llm, reference = sentencepiece_llm
    prompt, said = reference.encode("the owl"), reference.encode("lived near")
    assert reference.decode([*prompt, *said]) == "the owl lived near"

    def scripted() -> SamplingParams:
        tokens = iter(said)
        return SamplingParams(max_tokens=len(said), choose=lambda logits: next(tokens))

    assert llm.generate("the owl", scripted())[0].text == " lived near"
    assert [answer.text for answer in llm.generate(["the owl", "the fox"], [scripted(), scripted()])] == [" lived near"] * 2
    assert "".join(chunk.text for chunk in llm.stream("the owl", scripted())) == " lived near"
    assert "".join(step.text for step in llm.trace("the owl", params=scripted())) == " lived near"
    handle = llm.submit("the owl", scripted())
    assert (handle.continues, handle.result()[0].text) == (True, " lived near")
    assert llm.submit(prompt, scripted(), continues=True).result()[0].text == " lived near"
    assert llm.submit("the owl", scripted(), continues=False).result()[0].text == "lived near"
    assert llm.generate(prompt, scripted())[0].text == reference.decode(said) == "lived near"
    messages = [{"role": "user", "content": "the owl"}]
    assert llm.chat(messages, scripted()).text == llm.generate([messages], scripted())[0].text == "lived near"
    chosen = llm.generate("the owl", SamplingParams(temperature=0.0, max_tokens=20, choice=["fox", "river"]))[0].text
    assert chosen in ("fox", "river")  # what has to follow a rule is a text by itself


def test_chat_needs_a_template(untemplated: Path, native: LLM) -> None:
    with LLM(untemplated) as llm:
        for chat in (lambda: llm.chat(QUESTION), lambda: llm.chat(QUESTION, stream=True), lambda: llm.generate([QUESTION])):
            with pytest.raises(ChatTemplateError, match="--chat-template FILE"):
                chat()
        assert llm.generate("Some text", GREEDY)[0].token_ids == native.generate("Some text", GREEDY)[0].token_ids
    file = TINY / "chat_template.jinja"
    for template in (str(file), file.read_text()):
        with LLM(untemplated, chat_template=template) as llm:
            assert llm.chat(QUESTION, GREEDY).token_ids == native.chat(QUESTION, GREEDY).token_ids
    with pytest.raises(InvalidRequestError, match="neither a template nor a file"):
        LLM(untemplated, chat_template="missing.jinja")
    with pytest.raises(ChatTemplateError, match="given is malformed at line 1"):
        LLM(untemplated, chat_template="{{ bad")


@pytest.mark.parametrize("weights", ["f32", "f16", "bf16", "q8_0", "q4_0", "q6_k"])
def test_weights_are_re_encoded(weights: str) -> None:
    with LLM("tiny", weights=weights) as llm:
        assert llm.logits([1, 304, 280]).shape == (3, 1328)
        if weights != "q4_0":
            assert llm.chat(QUESTION, GREEDY).text.endswith("42")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": "cuda"}, "ops is 'cuda'; it must be one of auto, native, reference, torch"),
        ({"device": "gpu"}, "device 'gpu' is not one of cpu, cuda"),
        ({"device": "cuda:x"}, "device 'cuda:x' is not one of"),
        ({"device": "cpu:1"}, "processors have no numbers; say device=.cpu."),
        ({"device": "cuda", "ops": "native"}, "device is 'cuda', but ops='native' runs on the cpu"),
        ({"dtype": "bf16"}, "dtype is for ops='torch'"),
        ({"dtype": "f64", "ops": "torch"}, "dtype is 'f64'; it must be one of f32, f16, bf16"),
        ({"threads": 2, "ops": "torch"}, "threads is for the native op set"),
        ({"low_memory": True, "ops": "torch"}, "low_memory is for the native op set"),
        ({"backend": "vllm"}, "backend='vllm' is not built yet"),
        ({"weights": "int4"}, "weights is 'int4'"),
        ({"overflow": "slide"}, "overflow='slide' is for models with absolute positions, and this one .llama. has rotary positions"),
        ({"kv_dtype": "q2_k"}, "kv_dtype is 'q2_k'"),
        ({"low_memory": True, "ops": "reference"}, "low_memory is for the native op set"),
        ({"low_memory": True, "weights": "q8_0"}, "low_memory leaves weights as they are stored"),
        ({"kv_dtype": 5}, "kv_dtype is 5; it must be a text"),
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"context": 1025}, "context is 1025 and the model was made for 1024"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"prefill_chunk": -1}, "prefill_chunk is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2, "ops": "reference"}, "leave threads out"),
        ({"prefill_threads": 0}, "prefill_threads is 0"),
        ({"kv_memory": 1.5}, "kv_memory is 1.5; it must be an integer"),
        ({"tp": 2, "ops": "native"}, "tp is 2, but ops='native' runs on the cpu as one"),
        ({"tp": 0}, "tp is 0"),
        ({"tp": 3}, "tp is 3, and layer 0 of the model cannot be divided so"),
        ({"compile": True}, "compile is for ops='torch'"),
        ({"compile": True, "tp": 2}, "compile goes with one device, and tp is 2"),
        ({"offload": 1}, "offload is for ops='torch'"),
        ({"offload": True, "ops": "torch"}, "offload is True; it must be an integer"),
        ({"offload": 1, "tp": 2}, "offload is 1 and tp is 2"),
        ({"offload": 5, "ops": "torch"}, "offload is 5, and the model has 4 layers"),
        ({"tokenizer": 5}, "tokenizer is 5; it must be a Tokenizer or a path"),
        ({"adapters": {"a": "b"}}, "adapters is not built yet"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        LLM("tiny", **options)


def test_a_model_is_a_path_or_a_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="model is 5; it must be a path or a name"):
        LLM(5)  # type: ignore[arg-type]
    for missing in (tmp_path, tmp_path / "none", "no-such-model"):
        with pytest.raises(ModelFileError, match=str(missing)):
            LLM(missing)


def test_memory_that_cannot_do_names_both_numbers() -> None:
    each = 4 * 2 * 4 * 32 * 32 * 2  # layers, keys and values, heads, width, positions, bytes
    with pytest.raises(OutOfMemoryError, match=f"1024 tokens takes {32 * each} bytes and {31 * each} are allowed by kv_memory"):
        LLM("tiny", context=1024, kv_memory=31 * each)
    with LLM("tiny", kv_memory=3 * each) as llm:
        assert page_bytes(llm.spec, "f16") == each
        assert llm.context == 96
        with pytest.raises(ContextLengthError, match=r"100 tokens.*holds 96"):
            llm.generate([7] * 100)


def test_bad_prompts_are_refused_before_any_work(native: LLM) -> None:
    for prompt, message in (
        ("", "the prompt is empty"),
        ([], "the list of prompts is empty"),
        ([[]], "the prompt is empty"),
        (["fine", []], r"prompts\[1\]: the prompt is empty"),
        (["fine", 5], r"prompts\[1\] is 5; it must be a text, a list of token ids, or a list of messages"),
        (None, "the prompt is None"),
        ([1.5], r"prompts\[0\] is 1\.5"),
        ([1, "a"], r"prompts\[0\] is 1;"),
        ([True], r"prompts\[0\] is True"),
        ([1328], "token id 1328 in the prompt is outside the model's 1328 embedding rows"),
        ([-1], "token id -1"),
        ([{"content": "x"}], "role"),
        ("\ud800", "surrogate"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            native.generate(prompt)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match=r"prompts\[1\]: the prompt has 2000 tokens.*holds 1024"):
        native.generate([[5], [5] * 2000])
    with pytest.raises(ContextLengthError, match=r"2000 tokens.*1024"):
        native.stream([5] * 2000)
    for call in (native.logits, native.score):
        with pytest.raises(ContextLengthError, match=r"2000.*1024"):
            call([5] * 2000)
        with pytest.raises(InvalidRequestError, match="empty"):
            call([])
    with pytest.raises(InvalidRequestError, match="2 prompts and 3 params"):
        native.generate(["a", "b"], [GREEDY] * 3)
    for call in (lambda bad: native.generate("a", bad), lambda bad: native.chat(QUESTION, bad), lambda bad: native.trace("a", params=bad)):
        with pytest.raises(InvalidRequestError, match="must be a SamplingParams"):
            call({"max_tokens": 5})
    with pytest.raises(InvalidRequestError, match="n is 2, and chat gives one answer"):
        native.chat(QUESTION, SamplingParams(n=2))
    with pytest.raises(InvalidRequestError, match="messages must be a list"):
        native.chat("text")  # type: ignore[arg-type]
    assert pool_is_whole(native)


def test_arrays_and_tuples_are_token_ids(native: LLM) -> None:
    expected = native.generate([1, 304, 280], GREEDY)[0].token_ids
    for prompt in ((1, 304, 280), np.array([1, 304, 280]), np.array([[1, 304, 280]]), [np.int64(1), np.int32(304), 280]):
        assert native.generate(prompt, GREEDY)[0].token_ids == expected  # type: ignore[arg-type]
    assert native.generate([range(1, 4)], GREEDY)[0].prompt_token_ids == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_refused_and_ends() -> None:
    """The core's threads stay in the parent: the child must neither wait for them in an operation nor when it drops the model."""
    code = """
import os
from linnet import LLM, LinnetError
llm = LLM("tiny", threads=2)
stream = llm.stream("Hello")
next(stream)
child = os.fork()
if child == 0:
    for use in (lambda: llm.generate("Hello"), lambda: next(stream)):
        try:
            use()
        except LinnetError as error:
            assert "forked" in str(error)
        else:
            os._exit(1)
    del llm, stream, use
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert next(stream).token_ids
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nothing_works_after_close() -> None:
    llm = LLM("tiny")
    stream, unstarted = llm.stream("Hello", SamplingParams(ignore_eos=True)), llm.stream("Hello")
    next(stream)
    llm.close()
    llm.close()
    for use in (
        lambda: list(stream),
        lambda: list(unstarted),
        lambda: llm.generate("x"),
        lambda: llm.stream("x"),
        lambda: llm.chat(QUESTION),
        lambda: llm.logits([1]),
        lambda: llm.score("x y"),
        lambda: llm.trace("x"),
    ):
        with pytest.raises(ClosedError):
            use()


def test_the_signature_is_the_options() -> None:
    signature = {n: p.default for n, p in inspect.signature(LLM).parameters.items() if n != "model"}
    assert signature == {f.name: f.default for f in fields(ModelOptions)}
    weights = next(f for f in fields(ModelOptions) if f.name == "weights")
    assert set(weights.metadata["choices"]) == {"auto", "stored", *TYPES}
    for f in fields(ModelOptions):
        assert f.default is not MISSING
        assert len(f.metadata["help"]) > 10, f.name


def test_import_is_light_and_every_public_name_is_there() -> None:
    code = "import linnet, sys; assert 'numpy' not in sys.modules; assert all(hasattr(linnet, n) for n in linnet.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logging_is_silent_by_default_and_speaks_at_debug(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with LLM("tiny") as llm:
        llm.generate("Hello", SamplingParams(max_tokens=2))
        assert caplog.text == ""
        with caplog.at_level(logging.DEBUG, logger="linnet"):
            llm.generate("Hello", SamplingParams(max_tokens=2))
    assert "request: " in caplog.text
    assert "step: 1 sequences" in caplog.text
    assert capfd.readouterr() == ("", "")
