"""Speculation over real models: the same tokens, texts and log-probabilities as without; and draft models that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm_cases import QUESTION, TINY, pool_is_whole

from linnet import LLM, Completion, InvalidRequestError, ModelFileError, OutOfMemoryError, SamplingParams
from linnet.engine.page_plan import page_bytes
from linnet.engine.step_costs import StepCosts
from linnet.load.weight_bytes import bytes_of

WEIGHTS = "model.safetensors"
PROMPTS: list[Any] = [QUESTION, "one two three one two three one two", [7] * 40, list(range(5, 75))]


class Free(StepCosts):
    """Rows that cost nothing: whatever can be guessed is."""

    def is_known(self, rows: int) -> bool:
        return True

    def seconds(self, rows: int) -> float:
        return 1e6


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with a little noise in its output matrix: mostly of the same opinion."""
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = tmp_path_factory.mktemp("noisy") / "tiny"
    shutil.copytree(TINY, folder)
    tensors = safetensors.load_file(folder / WEIGHTS)
    random = np.random.default_rng(0)
    name = next(name for name in tensors if "embed_tokens" in name)
    noise = random.normal(0, 0.3, tensors[name].shape) * tensors[name].astype(np.float32).std()
    tensors[name] = (tensors[name].astype(np.float32) + noise).astype(tensors[name].dtype)
    safetensors.save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.fixture(scope="module", params=[("native", "same"), ("native", "noisy"), ("reference", "noisy")], ids=lambda p: "-".join(p))
def llm(request: pytest.FixtureRequest, noisy: Path) -> Iterator[LLM]:
    ops, draft = request.param
    with LLM("tiny", ops=ops, draft=TINY if draft == "same" else noisy) as model:
        model.engine.speculator.costs = Free()
        yield model


def answers(llm: LLM, mix: list[tuple[Any, dict[str, Any]]], **more: Any) -> list[Completion]:
    return llm.generate([prompt for prompt, _ in mix], [SamplingParams(**{**options, **more}) for _, options in mix])


mixes = st.lists(
    st.tuples(
        st.sampled_from(PROMPTS),
        st.fixed_dictionaries(
            {"max_tokens": st.integers(1, 40), "seed": st.integers(0, 5), "speculation": st.sampled_from(["auto", "lookup", "draft"])},
            optional={
                "temperature": st.sampled_from([0.0, 0.7]),
                "top_k": st.sampled_from([5]),
                "top_p": st.sampled_from([0.8]),
                "min_p": st.sampled_from([0.05]),
                "repetition_penalty": st.sampled_from([1.2]),
                "presence_penalty": st.sampled_from([0.5]),
                "frequency_penalty": st.sampled_from([-0.5, 0.5]),
                "logit_bias": st.just({9: 3.0, 17: -4.0}),
                "stop": st.sampled_from([["an"], ["drum", "7"]]),
                "stop_token_ids": st.just([40]),
                "ignore_eos": st.booleans(),
                "logprobs": st.sampled_from([0, 2]),
                "prompt_logprobs": st.just(0),
                "n": st.just(2),
            },
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=7, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mix=mixes)
def test_answers_are_those_without(llm: LLM, mix: list[tuple[Any, dict[str, Any]]]) -> None:
    guessed, plain = answers(llm, mix), answers(llm, mix, speculation="off")
    for one, other in zip(guessed, plain, strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert (one.logprobs, one.prompt_logprobs) == (other.logprobs, other.prompt_logprobs)
        assert other.usage.drafted_tokens == other.usage.accepted_tokens == 0
    assert pool_is_whole(llm)


@pytest.mark.parametrize("mode", ["lookup", "draft"])
def test_guesses_come_and_are_counted(llm: LLM, mode: str) -> None:
    bias = {9: 1000.0} if mode == "lookup" else {}  # an answer that repeats itself
    params = SamplingParams(max_tokens=40, temperature=0.0, speculation=mode, ignore_eos=True, logit_bias=bias)
    usage = llm.chat(QUESTION, params).usage
    assert usage.completion_tokens == 40
    assert 15 < usage.accepted_tokens <= usage.drafted_tokens


def test_streams_and_handles_count_as_well(llm: LLM) -> None:
    params = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
    whole = llm.generate([QUESTION], params)[0]
    chunks = list(llm.stream(QUESTION, params))
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert chunks[-1].completion is not None
    assert chunks[-1].completion.usage.accepted_tokens > 0
    [handled] = llm.submit(QUESTION, params).result()
    assert handled.token_ids == whole.token_ids
    assert handled.usage.accepted_tokens > 0


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": r"(ab|cd){8}[0-9]+"},
        {"json_schema": {"type": "array", "items": {"enum": ["apple", "drum"]}, "minItems": 5, "maxItems": 9}},
        {"choice": ["one two three one two three one two three", "seven"]},
    ],
    ids=lambda c: next(iter(c)),
)
def test_constraints_hold_for_every_guess(llm: LLM, constraint: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    for temperature in (0.0, 1.0):
        params = {"max_tokens": 25, "temperature": temperature, "seed": 1, "n": 2, **constraint}
        guessed = llm.generate([QUESTION], SamplingParams(**params))
        plain = llm.generate([QUESTION], SamplingParams(**params, speculation="off"))
        assert [c.token_ids for c in guessed] == [c.token_ids for c in plain]
        assert [(c.text, c.finish_reason) for c in guessed] == [(c.text, c.finish_reason) for c in plain]
    assert sum(c.usage.drafted_tokens for c in guessed)
    assert pool_is_whole(llm)


# ---- draft models that are refused
def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = (next(token for token, id in vocabulary.items() if id == wanted) for wanted in (1000, 1001))
    vocabulary[one], vocabulary[other] = 1001, 1000
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidRequestError, match=r"draft .* has another vocabulary than 'tiny': token 1000 is .* there and .* here"):
        LLM("tiny", draft=folder)
    file.unlink()
    with LLM("tiny", draft=folder):  # no tokenizer, but as many tokens
        pass
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {name: array[:1300] if len(array) == 1328 else array for name, array in safetensors.load_file(folder / WEIGHTS).items()}
    safetensors.save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 1300}))
    with pytest.raises(InvalidRequestError, match=r"has 1300 tokens and 'tiny' has 1328; choose a draft of the same vocabulary"):
        LLM("tiny", draft=folder)


def test_a_draft_that_is_not_there_or_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"draft: .*{tmp_path / 'none'}"):
        LLM("tiny", draft=tmp_path / "none")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"draft: .*x\.gguf"):
        LLM("tiny", draft=str(tmp_path / "x.gguf"))
    with pytest.raises(InvalidRequestError, match="draft is 5; it must be a path or a name"):
        LLM("tiny", draft=5)  # type: ignore[arg-type]


def test_memory_is_planned_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("tiny") as alone:
        each, nbytes = page_bytes(alone.spec, "f16"), bytes_of(alone._checkpoint, None)
    with LLM("tiny", kv_memory=6 * each) as alone, LLM("tiny", kv_memory=6 * each, draft="tiny") as both:
        assert (alone.context, both.context) == (6 * 32, 3 * 32)
    monkeypatch.setattr("linnet.draft.available_memory", lambda: nbytes + 1000)
    with pytest.raises(
        OutOfMemoryError, match=f"draft 'tiny' takes {nbytes} bytes, and 1000 are available beside those of 'tiny'; .*weights='q8_0'"
    ):
        LLM("tiny", draft="tiny")


def test_without_a_draft_model_none_can_be_asked_for() -> None:
    with LLM("tiny") as llm, pytest.raises(InvalidRequestError, match="speculation='draft' needs a draft model"):
        llm.generate("x", SamplingParams(speculation="draft"))
