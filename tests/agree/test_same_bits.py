"""Promise 1 below the engine: a sequence's logits are the same bits alone, in any batch, in any chunks, with any threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from family import VOCABULARY
from harness import OP_SETS, Logits, Model, Session, greedy, load, logits_of, random_tokens

from models import FIRST, NAMED, Draw

GENERATED = 16
PROMPTS = [random_tokens(length, VOCABULARY) for length in (45, 1, 3, 64, 31, 33, 70, 8)]
LONGEST = max(range(len(PROMPTS)), key=lambda index: len(PROMPTS[index]))
NAMES = ["llama-dynamic", "llama-yarn", "mistral-window", "gpt_neo-local", "falcon-alibi"]
"""What depends on position or length, besides each family at its plainest."""
CHOSEN = [*FIRST, *(draw for draw in NAMED if str(draw) in NAMES)]
THREADS = {"reference": (1,), "native": (1, 2)}
"""By op set; torch promises tokens, not bits."""
CASES = [pytest.param(draw, op_set, id=f"{draw}-{op_set}") for draw in CHOSEN for op_set in THREADS]
KV_DTYPES = {"reference": ("f16",), "native": ("f16", "f32")}

Saved = Callable[[Draw], Path]


@pytest.mark.parametrize(("draw", "op_set"), CASES)
def test_same_bits(draw: Draw, op_set: str, saved: Saved) -> None:
    for kv_dtype in KV_DTYPES[op_set]:
        alone = load(saved(draw), OP_SETS[op_set](1))
        expected = [logits_of(alone, prompt, kv_dtype) for prompt in PROMPTS]
        for threads in THREADS[op_set]:
            check_same_bits(load(saved(draw), OP_SETS[op_set](threads)), expected, kv_dtype)


def check_same_bits(model: Model, expected: list[Logits], kv_dtype: str) -> None:
    lengths = [len(prompt) for prompt in PROMPTS]
    for i, logits in Session(model, lengths, kv_dtype).feed(dict(enumerate(PROMPTS))).items():
        np.testing.assert_array_equal(logits, expected[i])
    if model.spec.bidirectional_prompt:
        return  # such prompts go in whole
    for chunk in (7, 32):
        np.testing.assert_array_equal(logits_of(model, PROMPTS[LONGEST], kv_dtype, chunk), expected[LONGEST])
    np.testing.assert_array_equal(logits_of(model, PROMPTS[0], kv_dtype, 1), expected[0])
    for ours, logits in zip(staggered(Session(model, lengths, kv_dtype)), expected, strict=True):
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


@pytest.mark.parametrize(("draw", "op_set"), CASES)
def test_same_tokens_in_a_batch_of_8(draw: Draw, op_set: str, saved: Saved) -> None:
    alone = load(saved(draw), OP_SETS[op_set](1))
    expected = [greedy(alone, [prompt], GENERATED, "f16")[0] for prompt in PROMPTS]
    for threads in THREADS[op_set]:
        assert greedy(load(saved(draw), OP_SETS[op_set](threads)), PROMPTS, GENERATED, "f16") == expected
