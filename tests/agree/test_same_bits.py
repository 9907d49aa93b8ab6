"""Promise 1 below the engine: a sequence's logits are the same bits alone, in any batch, in any chunks, with any threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import OP_SETS, Logits, Session, greedy, load, logits_of, random_tokens

from models import DRAWS, VOCABULARY, save

PROMPTS = [random_tokens(length, VOCABULARY) for length in (45, 1, 3, 64, 31, 33, 70, 8)]
NAMES = ["llama-mqa-tied", "llama-dynamic", "mistral-window", "qwen2-gqa", "qwen3-yarn"]
CHOSEN = [draw for draw in DRAWS if str(draw) in NAMES]
assert len(CHOSEN) == len(NAMES)


@pytest.fixture(params=OP_SETS)
def op_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CHOSEN, ids=str)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save(request.param.model(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
def test_same_bits(checkpoint: Path, op_set: str, kv_dtype: str) -> None:
    alone = load(checkpoint, OP_SETS[op_set](1))
    expected = [logits_of(alone, prompt, kv_dtype) for prompt in PROMPTS]
    for threads in (1, 2):
        model = load(checkpoint, OP_SETS[op_set](threads))
        for prompt, logits in zip(PROMPTS, expected, strict=True):
            for chunk in (None, 7, 32):
                np.testing.assert_array_equal(logits_of(model, prompt, kv_dtype, chunk), logits)
        np.testing.assert_array_equal(logits_of(model, PROMPTS[0], kv_dtype, 1), expected[0])

        session = Session(model, [len(prompt) for prompt in PROMPTS], kv_dtype)
        for i, logits in session.feed(dict(enumerate(PROMPTS))).items():
            np.testing.assert_array_equal(logits, expected[i])
        for ours, logits in zip(staggered(Session(model, [len(prompt) for prompt in PROMPTS], kv_dtype)), expected, strict=True):
            np.testing.assert_array_equal(ours, logits)


def staggered(session: Session) -> list[Logits]:
    """The prompts begun one step after another, in pieces of different sizes: prefills and decodes in one step."""
    made: list[list[Logits]] = [[] for _ in PROMPTS]
    step = 0
    while any(done < len(prompt) for done, prompt in zip(session.done, PROMPTS, strict=True)):
        started = [i for i in range(min(step + 1, len(PROMPTS))) if session.done[i] < len(PROMPTS[i])]
        for i, logits in session.feed({i: PROMPTS[i][session.done[i] :][: 1 + 4 * (i % 3)] for i in started}).items():
            made[i].append(logits)
        step += 1
    return [np.concatenate(parts) for parts in made]


def test_same_tokens_in_a_batch_of_8(checkpoint: Path, op_set: str) -> None:
    alone = load(checkpoint, OP_SETS[op_set](1))
    expected = [greedy(alone, [prompt], 24, "f16")[0] for prompt in PROMPTS]
    for threads in (1, 2):
        assert greedy(load(checkpoint, OP_SETS[op_set](threads)), PROMPTS, 24, "f16") == expected
