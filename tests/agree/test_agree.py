"""Every family, on every op set, against transformers in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import (
    ALLOWED,
    ALLOWED_QUANTIZED,
    OP_SETS,
    ROUNDS_ACTIVATIONS,
    assert_agreement,
    difference,
    greedy,
    load,
    logits_of,
    random_tokens,
    teacher_forced_agreement,
)

from linnet.arch.registry import HF_FAMILIES
from linnet.load.dequantize import ENCODABLE
from linnet.tensors import TYPES
from models import BLOCKS, DRAWS, FAMILIES, VOCABULARY, Draw, oracle, quantize_model, save

PROMPT = 45  # past the trained context, every window and a page
GENERATED = 64


@pytest.fixture(params=OP_SETS)
def op_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def first_of_each_family() -> list[Draw]:
    return list({draw.family: draw for draw in reversed(DRAWS)}.values())


def test_every_registered_family_is_drawn_here() -> None:
    assert set(FAMILIES) == set(HF_FAMILIES)


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_logits_and_greedy_tokens(draw: Draw, op_set: str, tmp_path: Path) -> None:
    """Logits of a prompt, then 64 greedy tokens. By induction the tokens are those that transformers generates if, given
    them as a whole, it puts each one first: which also holds its dynamic scaling to the final length, as ours is."""
    theirs = draw.model()
    save(theirs, tmp_path)
    model = load(tmp_path, OP_SETS[op_set](2))
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert difference(logits_of(model, prompt), oracle(theirs, prompt)) < ALLOWED[op_set]
    tokens = greedy(model, [prompt], GENERATED)[0]
    expected = oracle(theirs, prompt + tokens)[PROMPT - 1 : -1]
    assert tokens == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("draw", first_of_each_family(), ids=str)
def test_half_precision_checkpoints(draw: Draw, dtype: torch.dtype, op_set: str, tmp_path: Path) -> None:
    theirs = draw.model()
    save(theirs, tmp_path, dtype)
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert difference(logits_of(load(tmp_path, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt)) < ALLOWED[op_set]


def test_a_sharded_checkpoint(op_set: str, tmp_path: Path) -> None:
    draw = DRAWS[0]
    theirs = draw.model()
    save(theirs, tmp_path, shard="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert difference(logits_of(load(tmp_path, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt)) < ALLOWED[op_set]


@pytest.mark.parametrize("draw", first_of_each_family(), ids=str)
def test_the_f16_cache(draw: Draw, op_set: str, tmp_path: Path) -> None:
    """Keys and values rounded to 11 bits, against transformers, which keeps them whole."""
    theirs = draw.model()
    save(theirs, tmp_path)
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert_agreement(logits_of(load(tmp_path, OP_SETS[op_set](2)), prompt, "f16"), oracle(theirs, prompt), 5e-3)


@pytest.mark.parametrize("target", ENCODABLE)
def test_quantized_on_load(target: str, op_set: str, tmp_path: Path) -> None:
    """`weights="q8_0"` and the others, against transformers on matrices that the gguf package rounded."""
    theirs = Draw("llama", "blocks", BLOCKS).model()
    save(theirs, tmp_path)
    quantize_model(theirs, target, ROUNDS_ACTIVATIONS[op_set])
    ours = load(tmp_path, OP_SETS[op_set](2), TYPES[target])
    prompt = random_tokens(PROMPT, VOCABULARY)
    allowed = ALLOWED_QUANTIZED if TYPES[target].block > 1 else ALLOWED
    assert_agreement(logits_of(ours, prompt), oracle(theirs, prompt), allowed[op_set])


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
