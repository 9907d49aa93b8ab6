"""GGUF files of every tensor type, on every op set, against transformers on the weights that the gguf package reads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from family import VOCABULARY
from gguf_files import write_gguf
from harness import ALLOWED, ALLOWED_QUANTIZED, OP_SETS, ROUNDS_ACTIVATIONS, Session, assert_agreement, load, logits_of, random_tokens
from quantized import quantize_model

from linnet.tensors import FLOATS, TYPES
from models import BLOCKS, NAMED, Draw, oracle

PROMPT = 45
FLOAT_NAMES = {type.name for type in FLOATS}
CONVERTED = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "tq1_0", "tq2_0", "nvfp4")
"""Types without kernels, that become q8_0."""
WRITTEN = ("llama", "qwen2", "qwen3")
"""Families that `write_gguf` writes under their own name."""
NOT_IN_GGUF = ("dynamic", "yarn-own-factor", "window", "upper-window")
"""GGUF has no dynamic scaling, no factor of one's own for yarn, and no windows for these families."""
ODD = [draw for draw in NAMED if draw.family in WRITTEN and draw.name not in NOT_IN_GGUF]


@pytest.fixture(params=OP_SETS)
def op_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(draw: Draw, type_name: str, op_set: str, folder: Path) -> None:
    theirs = draw.model()
    path = write_gguf(folder / "model.gguf", theirs, type_name)
    quantize_model(theirs, type_name, ROUNDS_ACTIVATIONS[op_set])
    prompt = random_tokens(PROMPT, VOCABULARY)
    allowed = ALLOWED if type_name in FLOAT_NAMES else ALLOWED_QUANTIZED
    assert_agreement(logits_of(load(path, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt), allowed[op_set])


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(("family", "op_set"), [("llama", "reference"), *((family, "native") for family in WRITTEN)])
def test_every_tensor_type(family: str, type_name: str, op_set: str, tmp_path: Path) -> None:
    """The reference decodes a type alike for every family, so one family is enough for it."""
    check(BLOCKS[family], type_name, op_set, tmp_path)


@pytest.mark.parametrize("type_name", CONVERTED)
def test_types_without_kernels(type_name: str, op_set: str, tmp_path: Path) -> None:
    check(BLOCKS["qwen3"], type_name, op_set, tmp_path)


@pytest.mark.parametrize("draw", ODD, ids=str)
def test_every_shape_and_scaling(draw: Draw, op_set: str, tmp_path: Path) -> None:
    check(draw, "f32", op_set, tmp_path)


# Not Q4_1 and Q5_1: their minima multiply a sum that is rounded by itself, which no rounding of activations shows.
@pytest.mark.parametrize("type_name", [name for name, type in TYPES.items() if type.block > 1 and name not in ("q4_1", "q5_1")])
@pytest.mark.parametrize("family", WRITTEN)
def test_native_integers_are_those_of_llama_cpp(family: str, type_name: str, tmp_path: Path) -> None:
    """One-token sequences, a batch of every token: where no activation lies on the edge between two integers (nearly
    everywhere), whole models agree to float32 rounding, which a different rounding anywhere would not allow."""
    theirs = BLOCKS[family].model()
    model = load(write_gguf(tmp_path / "model.gguf", theirs, type_name), OP_SETS["native"](2))
    ours = Session(model, [1] * VOCABULARY).feed({token: [token] for token in range(VOCABULARY)})
    quantize_model(theirs, type_name, activations=True)
    with torch.no_grad():
        expected = theirs(torch.arange(VOCABULARY)[:, None]).logits[:, 0].numpy()
    errors = np.abs(np.concatenate(list(ours.values())) - expected).max(axis=1) / np.abs(expected).max()
    assert (errors < 1e-5).mean() > 0.8
