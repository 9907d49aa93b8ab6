"""Ops of the native op set by themselves: recorded with their inputs as constants, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.native import NativeOps, frequencies_of_requests

Floats = NDArray[np.float32]


def spec_of(attention: Attention, **settings: Any) -> ModelSpec:
    norm = Norm(1e-6)
    layer = Layer(attention, Mlp(8, "silu"), norm, norm)
    return ModelSpec("test", 8, attention.query_width, 512, (layer,), norm, False, **settings)


SPEC = spec_of(Attention(1, 1, 16, (), 1.0))


def batch_of(runs: list[tuple[int, int]], pages: int, prompt: int = 1) -> Batch:
    """Rows at positions [start, stop) of one sequence each, all wanted; the pages of all sequences are interleaved."""
    widest = max(-(-stop // PAGE_SIZE) for _, stop in runs)
    table = np.full((len(runs), widest), -1, np.int32)
    order = iter(np.random.default_rng(0).permutation(pages).tolist())
    for row, (_, stop) in enumerate(runs):
        for page in range(-(-stop // PAGE_SIZE)):
            table[row, page] = next(order)
    positions = np.concatenate([np.arange(*run, dtype=np.int32) for run in runs])
    sequence = np.repeat(np.arange(len(runs), dtype=np.int32), [stop - start for start, stop in runs])
    lengths = np.full(len(runs), 512, np.int32)
    tokens, rows = np.zeros_like(positions), np.arange(len(positions), dtype=np.int32)
    return Batch(tokens, positions, tokens - 1, sequence, table[None], lengths, np.full_like(lengths, prompt), rows)


def eager(ops: NativeOps, op: Callable[..., int], *inputs: Floats, batch: Batch | None = None, spec: ModelSpec = SPEC) -> Floats:
    """What `op(*values)` gives for inputs [rows, width]. batch: by default as many sequences of one row."""
    batch = batch or batch_of([(0, 1)] * len(inputs[0]), len(inputs[0]))
    ops.begin(spec)
    result = op(*(ops.tape.constant(x) for x in inputs))
    rotations = [frequencies_of_requests(rope, batch.rope_lengths) for rope in ops.varying]
    arrays = (batch.tokens, batch.positions, batch.previous, batch.sequence, batch.page_table, batch.prompt_lengths, batch.rows)
    made: Floats = ops.tape.run(result, ops.cache, *arrays, rotations)
    return made
