"""What the tests of the reference ops share: random arrays, a spec around an attention, and ops that stand in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.reference import ReferenceOps

NORM = Norm(1e-5)
Floats = np.ndarray[Any, np.dtype[np.float32]]


def normal(random: np.random.Generator, *shape: int) -> Floats:
    return random.standard_normal(shape).astype(np.float32)


def double(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).double()


def spec_of(attention: Attention, bidirectional: bool = False) -> ModelSpec:
    layer = Layer(attention, Mlp(8, "silu"), NORM, NORM)
    return ModelSpec("llama", 16, 8, 512, (layer,), NORM, tied=False, bidirectional_prompt=bidirectional)


def batch_of(positions: list[int], sequence: list[int] | None = None, table: list[list[int]] | None = None, prompt: int = 512) -> Batch:
    """Rows of one sequence, or of those that `sequence` names, with pages in order or those of `table`."""
    n = len(positions)
    pages = np.array(table if table is not None else [list(range(max(positions) // PAGE_SIZE + 1))], np.int32)
    lengths, prompts = np.full(len(pages), 512, np.int32), np.full(len(pages), prompt, np.int32)
    rows = np.arange(n, dtype=np.int32)
    tokens = rows % 16
    sequences = np.array(sequence or [0] * n, np.int32)
    return Batch(tokens, np.array(positions, np.int32), tokens - 1, sequences, pages[None], lengths, prompts, rows)


def ops_in(batch: Batch, attention: Attention | None = None, kv_dtype: str = "f32", bidirectional: bool = False) -> ReferenceOps:
    """Ops about to run a batch, with as many pages as it names."""
    spec = spec_of(attention or Attention(1, 1, 8, (), 1.0), bidirectional)
    ops = ReferenceOps()
    ops.allocate_cache(spec, [int(batch.page_table.max()) + 1], kv_dtype)
    ops.begin(spec, batch)
    return ops
