"""`LLM.embed`: what the files say of pooling, the same bits in any company, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llm_cases import TINY, pool_is_whole

from linnet import LLM, ContextLengthError, InvalidRequestError, ModelFileError, SamplingParams, UnsupportedModelError
from linnet.load.checkpoint import open_checkpoint
from linnet.load.pooling import read_pooling, resolve_pooling

TEXTS = ["The capital of Italy is Rome.", "What is 17 + 25?", "A" * 300, "x"]


def test_the_same_bits_in_any_batch_chunking_and_company(native: LLM) -> None:
    for pooling in ("last", "mean"):
        alone = np.concatenate([native.embed(text, pooling) for text in TEXTS])
        assert alone.shape == (4, native.spec.hidden)
        np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-6)
        assert np.array_equal(native.embed(TEXTS, pooling), alone)
        with LLM("tiny", prefill_chunk=7, max_batch=2, threads=1, prefix_cache=False) as other:
            beside = other.submit(TEXTS[0], SamplingParams(max_tokens=40, seed=1, ignore_eos=True))
            assert np.array_equal(other.embed(TEXTS, pooling), alone)
            plain = native.generate(TEXTS[0], SamplingParams(max_tokens=40, seed=1, ignore_eos=True))
            assert beside.result()[0].token_ids == plain[0].token_ids
            assert pool_is_whole(other)


def test_unnormalised_vectors_point_the_same_way(native: LLM) -> None:
    raw, unit = native.embed(TEXTS, normalize=False), native.embed(TEXTS)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, rtol=1e-5)
    assert np.array_equal(native.embed(native.tokenize(TEXTS[0])), native.embed(TEXTS[0]))


def test_without_waiting(native: LLM) -> None:
    expected = native.embed(TEXTS)

    async def both() -> Any:
        return await asyncio.gather(native.submit_embed(TEXTS).aresult(), native.submit_embed(TEXTS, "mean").aresult())

    last, mean = asyncio.run(both())
    assert np.array_equal(last, expected)
    assert np.array_equal(mean, native.embed(TEXTS, "mean"))
    handle = native.submit_embed(TEXTS)
    assert handle.prompt_tokens == sum(len(native.tokenize(text)) for text in TEXTS)

    async def given_up() -> None:
        task = asyncio.create_task(native.submit_embed([[5] * 1000] * 8, "mean").aresult())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    native.embed("x")  # once this is done, so is the step that ran
    assert pool_is_whole(native)


def test_more_texts_than_the_queue_holds() -> None:
    with LLM("tiny", max_batch=2, max_queue=0) as llm:
        assert llm.embed(["a", "b", "c", "d", "e"]).shape == (5, llm.spec.hidden)


def test_what_cannot_be_is_refused_before_work(native: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="pooling is 'cls'; it must be one of auto, last, mean"):
        native.embed("x", pooling="cls")
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        native.embed(["x", []])
    with pytest.raises(ContextLengthError, match=r"the prompt has \d+ tokens .* the context holds"):
        native.embed(["x", [5] * (native.context + 1)])
    assert pool_is_whole(native)


def folder(tmp_path: Path, config: Any, modules: Any = None, name: str = "1_Pooling") -> Path:
    """The built-in model with sentence-transformers' files."""
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / name).mkdir()
    (tmp_path / "model" / name / "config.json").write_text(json.dumps(config))
    if modules is not None:
        (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    return tmp_path / "model"


OLD = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "include_prompt": True}
STEPS = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "pool", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.mark.parametrize(
    ("config", "modules", "expected"),
    [
        ({**OLD, "pooling_mode_lasttoken": True}, None, "last"),
        ({**OLD, "pooling_mode_mean_tokens": True}, None, "mean"),
        ({"pooling_mode": "mean"}, STEPS, "mean"),
        ({"pooling_mode": "lasttoken"}, STEPS, "last"),
    ],
)
def test_pooling_is_what_the_files_say(tmp_path: Path, native: LLM, config: Any, modules: Any, expected: str) -> None:
    with LLM(folder(tmp_path, config, modules, "pool" if modules else "1_Pooling")) as llm:
        assert np.array_equal(llm.embed(TEXTS), native.embed(TEXTS, expected))


@pytest.mark.parametrize(
    ("config", "modules", "error", "says"),
    [
        ({**OLD, "pooling_mode_cls_token": True}, None, UnsupportedModelError, "pooling 'cls_token' is not built"),
        ({**OLD, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}, None, UnsupportedModelError, "mean_tokens, lasttoken"),
        (OLD, None, UnsupportedModelError, "poolings none"),
        ({"pooling_mode": ["x"]}, None, UnsupportedModelError, "is not built"),
        ({"pooling_mode": "mean"}, [*STEPS, {"type": "sentence_transformers.models.Dense"}], UnsupportedModelError, "a step 'Dense'"),
        ({"pooling_mode": "mean"}, [5], UnsupportedModelError, "a step ''"),
        ({"pooling_mode": "mean"}, {}, ModelFileError, "a JSON array was expected"),
        ({"pooling_mode": "mean"}, [{**STEPS[1], "path": "../../etc"}], ModelFileError, "a folder beside it was expected"),
        ([], None, ModelFileError, "a JSON object was expected"),
    ],
)
def test_poolings_that_are_not_built_say_so(tmp_path: Path, config: Any, modules: Any, error: type[Exception], says: str) -> None:
    checkpoint = open_checkpoint(folder(tmp_path, config, modules))
    try:
        with pytest.raises(error, match=says):
            resolve_pooling("auto", checkpoint)
        assert resolve_pooling("mean", checkpoint) == "mean", "who says it takes the consequence"
    finally:
        checkpoint.close()


def test_a_text_gets_the_end_that_its_tokenizer_puts_there(tmp_path: Path) -> None:
    """As Qwen3-Embedding's does, whose last token's vector is the text's; transformers adds it, and a text to go on with has none."""
    transformers = pytest.importorskip("transformers")
    shutil.copytree(TINY, tmp_path / "m", ignore=shutil.ignore_patterns("*.py", "README.md"))
    file = tmp_path / "m" / "tokenizer.json"
    whole = json.loads(file.read_text())
    end = next(token for token in whole["added_tokens"] if token["content"] == "<|end|>")
    parts = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|end|>", "type_id": 0}}]
    special = {"<|end|>": {"id": "<|end|>", "ids": [end["id"]], "tokens": ["<|end|>"]}}
    whole["post_processor"] = {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": special}
    file.write_text(json.dumps(whole))
    ids = [transformers.AutoTokenizer.from_pretrained(tmp_path / "m")(text).input_ids for text in TEXTS]
    with LLM(tmp_path / "m") as llm:
        assert np.array_equal(llm.embed(TEXTS), llm.embed(ids))
        assert np.array_equal(llm.embed(TEXTS[0]), llm.embed(ids[0]))
        assert [*llm.tokenize(TEXTS[0]), end["id"]] == ids[0]


@pytest.mark.parametrize(
    ("kind", "expected"), [(None, None), (0, None), (1, "mean"), (3, "last"), (2, "cls"), (4, "rank"), (9, "9"), ("x", "x")]
)
def test_gguf_pooling_types(kind: Any, expected: str | None) -> None:
    metadata = {"general.architecture": "qwen3", **({} if kind is None else {"qwen3.pooling_type": kind})}
    checkpoint: Any = SimpleNamespace(name="model.gguf", metadata=metadata)
    if expected in (None, "mean", "last"):
        assert read_pooling(checkpoint) == expected
    else:
        with pytest.raises(UnsupportedModelError, match=f"pooling '{expected}' is not built"):
            read_pooling(checkpoint)
