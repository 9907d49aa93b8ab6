"""`LLM` from the outside, on the built-in model and on small random ones."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet import (
    LLM,
    ChatTemplateError,
    ClosedError,
    Completion,
    ContextLengthError,
    InvalidRequestError,
    ModelFileError,
    OutOfMemoryError,
    SamplingParams,
    Tokenizer,
)
from linnet.engine.pages import page_bytes
from linnet.load.dequantize import ENCODABLE
from linnet.model_options import ModelOptions

TINY = Path(__file__).parents[1] / "models" / "tiny"
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=60)
PROMPTS: list[Any] = [
    "The capital of France is",
    QUESTION,
    [5],
    list(range(5, 45)),
    [{"role": "user", "content": "Repeat these words: " + "apple drum lantern " * 8}],
    "x",
    [
        {"role": "user", "content": "Hello! My name is Ada."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Who am I?"},
    ],
    [7] * 100,
]


@pytest.fixture(scope="module", params=["reference", "native"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with LLM("tiny", ops=request.param, kv_dtype="f32") as model:
        yield model


@pytest.fixture(scope="module")
def native() -> Iterator[LLM]:
    with LLM("tiny") as model:
        yield model


def samplings(count: int = len(PROMPTS)) -> list[SamplingParams]:
    """Greedy and random, with and without penalties, of different lengths."""
    return [
        SamplingParams(
            max_tokens=8 + 3 * i,
            temperature=0.6 * (i % 3),
            top_p=0.95,
            top_k=50 * (i % 2),
            seed=i,
            ignore_eos=i % 4 == 3,
            repetition_penalty=1.0 + 0.1 * (i % 2),
        )
        for i in range(count)
    ]


def pool_is_whole(llm: LLM) -> bool:
    return llm._engine.pool.free_count == llm._engine.pool.count


# ---- promise 1: the same tokens, however they are asked for
def solo(llm: LLM) -> list[Completion]:
    return [llm.generate([prompt], params)[0] for prompt, params in zip(PROMPTS, samplings(), strict=True)]


def test_a_batch_of_mixed_lengths_gives_the_tokens_of_solo_runs(llm: LLM) -> None:
    alone = solo(llm)
    together = llm.generate(PROMPTS, samplings())
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]
    assert pool_is_whole(llm)


def test_streams_equal_generate(llm: LLM) -> None:
    for prompt, params, whole in zip(PROMPTS, samplings(), solo(llm), strict=True):
        chunks = list(llm.stream(prompt, params))
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert "".join(c.text for c in chunks) == whole.text
        assert [c.finish_reason for c in chunks if c.finish_reason] == [whole.finish_reason]
        last = chunks[-1].completion
        assert last is not None
        assert (last.text, last.token_ids, last.usage) == (whole.text, whole.token_ids, whole.usage)


def test_interleaved_streams_equal_generate(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    streams = {i: native.stream(p, s) for i, (p, s) in enumerate(zip(PROMPTS, samplings(), strict=True))}
    found: list[list[int]] = [[] for _ in PROMPTS]
    while streams:
        for i, stream in list(streams.items()):
            chunk = next(stream, None)
            if chunk is None:
                del streams[i]
            else:
                found[i] += chunk.token_ids
    assert found == expected


def test_threads_chunks_batches_and_recomputation_change_nothing(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    for options in ({"prefill_chunk": 7}, {"threads": 1}, {"threads": 2, "max_batch": 3}, {"kv_memory": 2**20}):
        with LLM("tiny", **options) as other:  # type: ignore[arg-type]
            assert [c.token_ids for c in other.generate(PROMPTS, samplings())] == expected, options
    assert [c.token_ids for c in native.generate(PROMPTS, samplings(), cache=False)] == expected


def test_callers_in_threads_do_not_disturb_each_other(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    found: dict[int, list[list[int]]] = {}

    def work(me: int) -> None:
        found[me] = [[t for c in native.stream(p, s) for t in c.token_ids] for p, s in zip(PROMPTS, samplings(), strict=True)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == dict.fromkeys(range(4), expected)
    assert pool_is_whole(native)


def test_the_seed_is_reported_and_reproduces(native: LLM) -> None:
    free = SamplingParams(max_tokens=20, temperature=1.5, ignore_eos=True)
    first, second = native.generate(["Hello", "Hello"], free)
    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    again = native.generate("Hello", SamplingParams(max_tokens=20, temperature=1.5, ignore_eos=True, seed=first.seed))[0]
    assert again.token_ids == first.token_ids


def test_samples_come_in_order_and_differ(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.5, n=3, seed=1, ignore_eos=True)
    completions = llm.generate(["One", "Two"], params)
    assert [c.index for c in completions] == [0, 1, 2, 0, 1, 2]
    for samples in (completions[:3], completions[3:]):
        assert len({tuple(c.token_ids) for c in samples}) == 3
    single = llm.generate("One", SamplingParams(max_tokens=12, temperature=1.5, seed=1, ignore_eos=True))[0]
    assert completions[0].token_ids == single.token_ids


# ---- answers
def test_the_built_in_model_adds(llm: LLM) -> None:
    completion = llm.chat(QUESTION, GREEDY)
    assert completion.text.endswith("17 + 25 = 42")
    assert completion.finish_reason == "stop"
    assert completion.token_ids[-1] == 4
    assert completion.usage.prompt_tokens == len(completion.prompt_token_ids) == 12
    assert completion.usage.completion_tokens == len(completion.token_ids)
    assert completion.timings.first_token_s is not None
    assert 0 < completion.timings.first_token_s <= completion.timings.total_s
    assert completion.timings.tokens_per_s is not None
    assert "".join(c.text for c in llm.chat(QUESTION, GREEDY, stream=True)) == completion.text


def test_logits_scores_and_greedy_tokens_are_transformers(llm: LLM) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    ids = llm.chat(QUESTION, GREEDY)
    tokens = ids.prompt_token_ids + ids.token_ids
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].double().numpy()
    found = llm.logits(tokens)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    log_softmax = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
    scores = llm.score(tokens)
    assert [s.token_id for s in scores] == tokens[1:]
    np.testing.assert_allclose([s.logprob for s in scores], log_softmax[np.arange(len(tokens) - 1), tokens[1:]], atol=5e-3)
    generated = model.generate(torch.tensor([ids.prompt_token_ids]), do_sample=False, max_new_tokens=60)[0].tolist()
    assert generated == tokens


def test_logprobs_agree_between_prompt_and_answer(llm: LLM) -> None:
    answer = llm.generate("The capital of", SamplingParams(max_tokens=8, temperature=0.7, seed=3, logprobs=4, ignore_eos=True))[0]
    scored = llm.generate([answer.prompt_token_ids + answer.token_ids], SamplingParams(max_tokens=0, prompt_logprobs=4))[0]
    assert (scored.text, scored.token_ids, scored.finish_reason) == ("", [], "length")
    assert scored.prompt_logprobs is not None
    assert scored.prompt_logprobs[0] is None
    assert scored.prompt_logprobs[len(answer.prompt_token_ids) :] == answer.logprobs
    chunks = list(llm.stream("The capital of", SamplingParams(max_tokens=8, temperature=0.7, seed=3, logprobs=4, ignore_eos=True)))
    assert [entry for c in chunks for entry in c.logprobs or []] == answer.logprobs


def test_trace_tells_candidates_and_choice(llm: LLM) -> None:
    steps = llm.trace(QUESTION, top=3, params=GREEDY)
    completion = llm.chat(QUESTION, GREEDY)
    assert [s.chosen.token_id for s in steps] == completion.token_ids
    assert [s.position for s in steps] == list(range(12, 12 + len(steps)))
    assert all(s.candidates[0] == s.chosen and len(s.candidates) == 3 for s in steps)
    assert "".join(s.chosen.text for s in steps[:-1]) == completion.text


def test_scoring_the_prompt_gives_one_completion_a_sample(native: LLM) -> None:
    completions = native.generate("Some text here", SamplingParams(max_tokens=0, n=2))
    assert [c.index for c in completions] == [0, 1]
    assert completions[0].prompt_logprobs == completions[1].prompt_logprobs
    assert [e.token_id for e in native.score("Some text here")] == completions[0].prompt_token_ids[1:]


def test_stop_texts_cut_everywhere_alike(llm: LLM) -> None:
    whole = llm.chat(QUESTION, GREEDY).text
    for stop in (" = 12", "so 17 +", "4, s", "42", whole[0]):
        params = SamplingParams(temperature=0.0, max_tokens=60, stop=[stop, "never"])
        cut = llm.chat(QUESTION, params)
        assert cut.text == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"
        assert "".join(c.text for c in llm.chat(QUESTION, params, stream=True)) == cut.text
    late = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, stop="=", min_tokens=20))
    position = whole.index("=", len(llm.tokenizer.decode(late.token_ids[:20])))  # type: ignore[union-attr]
    assert late.text == whole[:position]


def test_min_tokens_stop_ids_and_ignored_end(llm: LLM) -> None:
    plain = llm.chat(QUESTION, GREEDY)
    longer = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, min_tokens=50))
    assert len(longer.token_ids) >= 50
    assert 4 not in longer.token_ids[:50]
    ignored = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
    assert ignored.token_ids[: len(plain.token_ids)] == plain.token_ids
    assert len(ignored.token_ids) == 60
    stop_id = plain.token_ids[10]
    stopped = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, stop_token_ids=[stop_id]))
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(stop_id) + 1]
    assert stopped.text == llm.tokenizer.decode(stopped.token_ids[:-1])  # type: ignore[union-attr]


def test_own_sampling_functions(llm: LLM) -> None:
    plain = llm.chat(QUESTION, GREEDY)
    assert llm.chat(QUESTION, SamplingParams(max_tokens=60, choose=lambda logits: logits.argmax())).token_ids == plain.token_ids
    banned = plain.token_ids[0]

    def ban(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        assert token_ids[:12] == plain.prompt_token_ids
        logits[banned] = -np.inf
        return logits

    assert banned not in llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, logits_processor=ban)).token_ids


def test_a_closed_stream_frees_its_pages(native: LLM) -> None:
    stream = native.stream("Hello", SamplingParams(max_tokens=500, ignore_eos=True))
    next(stream)
    assert not pool_is_whole(native)
    stream.close()
    assert pool_is_whole(native)
    dropped = native.stream("Hello", SamplingParams(max_tokens=500, ignore_eos=True))
    next(dropped)
    del dropped
    assert pool_is_whole(native)
    native.stream("Hello")  # never started: never submitted
    assert pool_is_whole(native)


def test_a_failing_prompt_gives_the_others_up(native: LLM) -> None:
    def boom(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        native.generate(["a", "b"], [SamplingParams(max_tokens=500, ignore_eos=True), SamplingParams(logits_processor=boom)])
    assert pool_is_whole(native)


# ---- opening
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


@pytest.mark.parametrize("weights", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_weights_are_re_encoded(weights: str) -> None:
    with LLM("tiny", weights=weights) as llm:
        assert llm.logits([1, 304, 280]).shape == (3, 1328)
        if weights != "q4_0":
            assert llm.chat(QUESTION, GREEDY).text.endswith("42")


# ---- refusals
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": "cuda"}, "ops is 'cuda'; it must be one of auto, native, reference"),
        ({"ops": "torch"}, "ops='torch' is not built yet"),
        ({"backend": "vllm"}, "backend='vllm' is not built yet"),
        ({"weights": "int4"}, "weights is 'int4'"),
        ({"weights": "q4_k"}, "weights='q4_k' is not built yet"),
        ({"overflow": "slide"}, "overflow='slide' is not built yet"),
        ({"kv_dtype": "q8_0"}, "kv_dtype='q8_0' is not built yet"),
        ({"kv_dtype": 5}, "kv_dtype is 5; it must be a text"),
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"context": 1025}, "context is 1025 and the model was made for 1024"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"prefill_chunk": -1}, "prefill_chunk is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2, "ops": "reference"}, "leave threads out"),
        ({"prefill_threads": 2}, "prefill_threads is not built yet"),
        ({"kv_memory": 1.5}, "kv_memory is 1.5; it must be an integer"),
        ({"draft": "tiny"}, "draft is not built yet"),
        ({"tp": 2}, "tp is not built yet"),
        ({"compile": True}, "compile is not built yet"),
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
    with pytest.raises(InvalidRequestError, match="must be a SamplingParams"):
        native.generate("a", {"max_tokens": 5})  # type: ignore[arg-type]
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


# ---- the package
def test_the_signature_is_the_options() -> None:
    signature = {n: p.default for n, p in inspect.signature(LLM).parameters.items() if n != "model"}
    assert signature == {f.name: f.default for f in fields(ModelOptions)}
    weights = next(f for f in fields(ModelOptions) if f.name == "weights")
    assert set(weights.metadata["choices"]) == {"auto", *ENCODABLE}
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
