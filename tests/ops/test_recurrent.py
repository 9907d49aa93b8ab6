"""Convolutions and the gated delta rule on every op set against transformers' functions, however a sequence is cut and wherever its
pages lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.qwen3_next.modeling_qwen3_next import causal_conv1d_fn, torch_recurrent_gated_delta_rule

from linnet.arch.spec import GatedDeltaNet, Layer, Mixer, Mlp, ModelSpec, Norm, ShortConvolution
from linnet.ops.base import PAGE_SIZE, Batch, Ops
from linnet.ops.native import NativeOps
from linnet.ops.reference import ReferenceOps
from linnet.ops.torch.ops import TorchOps
from linnet.tensors import F32, RawTensor
from linnet.weights import FilterWeights

NORM = Norm(1e-6)
NET = GatedDeltaNet(key_heads=2, value_heads=6, key_dim=24, value_dim=20, taps=4, norm=NORM)
OP_SETS: dict[str, Callable[[], Ops]] = {
    "reference": ReferenceOps,
    "native": lambda: NativeOps(2),
    "torch": lambda: TorchOps(torch.device("cpu"), torch.float32),
}
LENGTHS = [3 * PAGE_SIZE + 5, 2 * PAGE_SIZE, 7]
CUTS = {
    "whole": [200],
    "row by row": [1],
    "to the ends of pages": [PAGE_SIZE],
    "one past, one before": [PAGE_SIZE + 1, PAGE_SIZE - 2, 1],
    "a prompt, then a row at a time": [40, 1, 1, 1],
    "two pages at a time": [2 * PAGE_SIZE, 3, 1],
}
Floats = NDArray[np.float32]


def raw(values: Floats) -> RawTensor:
    return RawTensor("made up", values.shape, F32, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def run(ops: Ops, mixer: Mixer, inputs: list[Floats], op: Callable[..., Any], cuts: list[int]) -> list[Floats]:
    """What `op` gives of several sequences side by side, [length, width] each, cut as `cuts` says over and over, every next one from
    another place of it. inputs: [all rows, width] each, which reach `op` as tables of embeddings whose tokens count on."""
    random = np.random.default_rng(5)
    spec = ModelSpec("lfm2", sum(LENGTHS), 8, 512, (Layer(mixer, Mlp(8, "silu"), NORM, NORM),), NORM, tied=False)
    counts = [-(-length // PAGE_SIZE) for length in LENGTHS]
    pages = np.full((1, len(LENGTHS), max(counts)), -1, np.int32)
    for row, own in zip(pages[0], np.split(random.permutation(sum(counts)), np.cumsum(counts)[:-1]), strict=True):
        row[: len(own)] = own
    tables = [ops.matrix(raw(x)) for x in inputs]
    ops.allocate_cache(spec, [sum(counts)], "f32")
    step = ops.stepper(spec, lambda: op(*(ops.embed(table, "tokens") for table in tables)))
    starts, done = np.cumsum([0, *LENGTHS[:-1]]), [0] * len(LENGTHS)
    found: list[list[Floats]] = [[] for _ in LENGTHS]
    for number in range(max(LENGTHS)):
        chunks = [min(cuts[(number + i) % len(cuts)], length - done[i]) for i, length in enumerate(LENGTHS)]
        due = [i for i, count in enumerate(chunks) if count]
        if not due:
            break
        positions = [np.arange(done[i], done[i] + chunks[i], dtype=np.int32) for i in due]
        tokens = np.concatenate([starts[i] + at for i, at in zip(due, positions, strict=True)]).astype(np.int32)
        order = np.repeat(due, [chunks[i] for i in due]).astype(np.int32)
        lengths = np.array(LENGTHS, np.int32)
        rows = np.arange(len(tokens), dtype=np.int32)
        results = np.asarray(step(Batch(tokens, np.concatenate(positions), tokens - 1, order, pages, lengths, lengths, rows)))
        for i in due:
            found[i].append(results[order == i].copy())
            done[i] += chunks[i]
    assert done == LENGTHS
    return [np.concatenate(parts) for parts in found]


def normal(*shape: int) -> Floats:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def of_length_one(heads: Floats) -> Floats:
    """[rows, heads, width] as [rows, heads * width]."""
    lengths: Floats = np.linalg.norm(heads, axis=2, keepdims=True)
    return (heads / lengths).reshape(len(heads), -1)


def in_bfloat16(x: Floats) -> Floats:
    """Rounded so that every op set has the same."""
    return torch.from_numpy(x).bfloat16().float().numpy()


def sequences(x: Floats) -> list[torch.Tensor]:
    return list(torch.from_numpy(x).split(LENGTHS))


@pytest.mark.parametrize("op_set", OP_SETS)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=list(CUTS))
def test_the_delta_rule(op_set: str, cuts: list[int]) -> None:
    check_delta_rule(OP_SETS[op_set](), cuts, rtol=1e-6, atol=2e-6)


def test_states_are_float32_whatever_activations_are() -> None:
    """What comes out is off by its own rounding, however many rows went before."""
    for cuts in (CUTS["row by row"], CUTS["whole"]):
        check_delta_rule(TorchOps(torch.device("cpu"), torch.bfloat16), cuts, rtol=2**-8, atol=2e-6)


def check_delta_rule(ops: Ops, cuts: list[int], rtol: float, atol: float) -> None:
    rows = sum(LENGTHS)
    q, k = (of_length_one(normal(rows, NET.key_heads, NET.key_dim + more)[..., more:]) for more in (0, 1))
    strength = 1 / (1 + np.exp(-normal(NET.value_heads, rows).T))
    rate, decay = normal(rows, NET.value_heads), np.exp(normal(NET.value_heads) - 1)
    inputs = [in_bfloat16(x) for x in (q / 5, k, normal(rows, NET.value_width), rate, strength)]
    held = ops.vector(raw(decay))

    def op(q: Any, k: Any, v: Any, rate: Any, strength: Any) -> Any:
        return ops.delta_rule(q, k, v, rate, strength, held, 0, NET)

    found = run(ops, NET, inputs, op, cuts)
    for ours, q, k, v, rate, strength in zip(found, *map(sequences, inputs), strict=True):
        query, key, value = (x.view(1, len(x), heads, -1) for x, heads in ((q * NET.key_dim**0.5, 2), (k, 2), (v, 6)))
        forget = -torch.from_numpy(decay) * torch.nn.functional.softplus(rate)
        theirs, _ = torch_recurrent_gated_delta_rule(query, key, value, forget[None], strength[None])
        np.testing.assert_allclose(ours, theirs[0].flatten(1).numpy(), rtol, atol)


@pytest.mark.parametrize("op_set", OP_SETS)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=list(CUTS))
@pytest.mark.parametrize(("taps", "biased"), [(4, False), (2, True)])
def test_convolutions(op_set: str, cuts: list[int], taps: int, biased: bool) -> None:
    ops, width = OP_SETS[op_set](), 600
    x, weight, bias = normal(sum(LENGTHS), width), normal(width, 1, taps), normal(width) if biased else None
    weights = FilterWeights(ops.vector(raw(weight)), None if bias is None else ops.vector(raw(bias)))
    mixer = ShortConvolution(width, taps)
    found = run(ops, mixer, [x], lambda x: ops.convolve(x, weights, 0, taps), cuts)
    for ours, one in zip(found, sequences(x), strict=True):
        theirs = causal_conv1d_fn(one.T[None], torch.from_numpy(weight)[:, 0], None if bias is None else torch.from_numpy(bias))
        np.testing.assert_allclose(ours, theirs[0].T.numpy(), atol=2e-6)
