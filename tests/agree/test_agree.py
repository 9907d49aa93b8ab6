"""Every family, on every op set, against transformers in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import ALLOWED, OP_SETS, difference, greedy, load, logits_of, random_tokens

from linnet.arch.registry import HF_FAMILIES
from models import DRAWS, FAMILIES, VOCABULARY, Draw, oracle, save

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
