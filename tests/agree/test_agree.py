"""Every family, on every op set, in float32, float16 and q8_0, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family import VOCABULARY
from harness import (
    ALLOWED,
    ALLOWED_QUANTIZED,
    EXCUSED,
    OP_SETS,
    ROUNDS_ACTIVATIONS,
    Session,
    assert_agreement,
    continued,
    difference,
    load,
    logits_of,
    random_tokens,
    teacher_forced_agreement,
)
from quantized import quantize_model

from linnet.arch.spec import Moe
from linnet.tensors import TYPES
from models import BLOCKS, BUILT, DRAWS, FAMILIES, FIRST, UNDESCRIBED, Draw, oracle, save, shared_model

PROMPT = 45  # past the trained context, every window and a page
GENERATED = 32

Saved = Callable[[Draw], Path]


def cases(draws: Iterable[Draw]) -> list[Any]:
    """Every draw on every op set, one after another, so that they share what is made for a draw. On torch, which has no arithmetic of
    its own, `make test` runs families at their plainest."""
    return [
        pytest.param(
            draw, op_set, id=f"{draw}-{op_set}", marks=[pytest.mark.slow] if draw.slow or (op_set == "torch" and draw not in FIRST) else []
        )
        for draw in draws
        for op_set in OP_SETS
    ]


@pytest.mark.parametrize("family", BUILT)
def test_every_registered_family_is_described_here(family: str) -> None:
    """In tests/agree/families."""
    if family in UNDESCRIBED:
        raise UNDESCRIBED[family]


@pytest.mark.parametrize(("draw", "op_set"), cases(DRAWS))
def test_logits_and_greedy_tokens(draw: Draw, op_set: str, saved: Saved) -> None:
    """Logits of a prompt, then 32 greedy tokens. By induction the tokens are those that transformers generates if, given
    them as a whole, it puts each one first: which also holds its dynamic scaling to the final length, as ours is."""
    model = load(saved(draw), OP_SETS[op_set](2))
    prompt = random_tokens(PROMPT, VOCABULARY)
    session = Session(model, [PROMPT + GENERATED], prompts=[PROMPT])
    ours = session.feed({0: prompt})
    tokens = continued(session, ours, GENERATED)[0]
    theirs = oracle(shared_model(draw), prompt + tokens)
    assert difference(ours[0], theirs[:PROMPT]) < ALLOWED[op_set]
    assert tokens == theirs[PROMPT - 1 : -1].argmax(axis=1).tolist()


@pytest.mark.parametrize(("draw", "op_set"), cases(FIRST))
def test_f16_checkpoints(draw: Draw, op_set: str, tmp_path: Path) -> None:
    check_half(draw, torch.float16, op_set, tmp_path)


@pytest.mark.parametrize(("draw", "op_set"), cases(FIRST[:1]))
def test_bf16_checkpoints(draw: Draw, op_set: str, tmp_path: Path) -> None:
    check_half(draw, torch.bfloat16, op_set, tmp_path)


def check_half(draw: Draw, dtype: torch.dtype, op_set: str, folder: Path) -> None:
    theirs = draw.model()
    save(theirs, folder, draw.family, dtype)
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert_agreement(logits_of(load(folder, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt), ALLOWED[op_set])


@pytest.mark.parametrize(("draw", "op_set"), cases(FIRST))
def test_q8_0_on_load(draw: Draw, op_set: str, saved: Saved) -> None:
    check_quantized(draw, "q8_0", op_set, saved(draw))


@pytest.mark.parametrize("target", ["f32", "f16", "bf16", "q8_0", "q4_0", "q5_1", "iq4_nl", "mxfp4"])
@pytest.mark.parametrize("op_set", OP_SETS)
def test_every_type_on_load(target: str, op_set: str, saved: Saved) -> None:
    check_quantized(BLOCKS["llama"], target, op_set, saved(BLOCKS["llama"]))


def check_quantized(draw: Draw, target: str, op_set: str, folder: Path) -> None:
    """`weights="q8_0"` and the others, against transformers on matrices as the gguf package reads what was encoded."""
    theirs = draw.model()
    quantize_model(theirs, target, ROUNDS_ACTIVATIONS[op_set], on_load=True)
    ours = load(folder, OP_SETS[op_set](2), TYPES[target])
    prompt = random_tokens(PROMPT, VOCABULARY)
    allowed = ALLOWED_QUANTIZED if TYPES[target].block > 1 else ALLOWED
    routed = ROUNDS_ACTIVATIONS[op_set] and any(isinstance(layer.mlp, Moe) for layer in ours.spec.layers)
    assert_agreement(logits_of(ours, prompt), oracle(theirs, prompt), allowed[op_set], EXCUSED if routed else 0.0)


@pytest.mark.parametrize("op_set", OP_SETS)
def test_a_sharded_checkpoint(op_set: str, tmp_path: Path) -> None:
    theirs = Draw("llama", "gqa", FAMILIES["llama"].named["gqa"]).model()
    save(theirs, tmp_path, shard="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert difference(logits_of(load(tmp_path, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt)) < ALLOWED[op_set]


@pytest.mark.parametrize(("draw", "op_set"), cases(FIRST[:1]))
def test_the_f16_cache(draw: Draw, op_set: str, saved: Saved) -> None:
    """Keys and values rounded to 11 bits, against transformers, which keeps them whole."""
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert_agreement(logits_of(load(saved(draw), OP_SETS[op_set](2)), prompt, "f16"), oracle(shared_model(draw), prompt), 5e-3)


def test_the_rule_of_agreement_finds_a_wrong_token_and_spares_a_near_tie() -> None:
    theirs = np.array([[0.0, 1.0, 5.0], [2.0, 2.3, 0.0]], np.float32)
    near_tie, wrong = theirs.copy(), theirs.copy()
    near_tie[1] = [2.3, 2.0, 0.0]
    wrong[0] = [6.0, 1.0, 5.0]
    assert teacher_forced_agreement(theirs, near_tie, 0.1) == 0.5
    with pytest.raises(AssertionError, match=r"rows \[0\]"):
        teacher_forced_agreement(theirs, wrong, 0.1)
    with pytest.raises(AssertionError, match=r"rows \[1\]"):
        teacher_forced_agreement(theirs, near_tie, 0.01)


def test_draws_are_the_same_on_every_op_set() -> None:
    """Every filter, ties and masked tokens, over vocabularies of all sizes. (At the last few `uniform` below 1 the last bit of
    a sum decides, and op sets may add in different orders.)"""
    random = np.random.default_rng(3)
    op_sets = [make(1) for make in OP_SETS.values()]
    for _ in range(1500):
        logits = (random.standard_normal(random.integers(1, 400)) * random.choice([0.1, 1, 5, 30])).astype(np.float32)
        if random.random() < 0.4:
            logits = np.round(logits)
        logits[1:][random.random(len(logits) - 1) < random.choice([0, 0.5])] = -np.inf
        filters = [random.choice([0, 1e-300, 0.1, 0.7, 1, 2, 100]), random.choice([0, 1, 5, 50, 1000])]
        filters += [
            random.choice([0, 0.1, 0.5, 0.9, 0.999, 1]),
            random.choice([0, 0.05, 0.5, 1]),
            random.choice([0, random.random(), 0.999999]),
        ]
        temperature, top_k, top_p, min_p, uniform = (float(value) for value in filters)
        drawn = {ops.sample(logits, temperature, int(top_k), top_p, min_p, uniform) for ops in op_sets}
        assert len(drawn) == 1, (drawn, filters)
