"""Tensor types and raw tensors: what every loader gives and every op set takes.

A leaf module: it knows nothing of files, models or arithmetic. Type names, ids and block sizes are those of
the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorType:
    """How the numbers of a tensor are stored: `block` values along the last axis take `block_bytes` bytes."""

    name: str
    gguf_id: int
    block: int
    block_bytes: int

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of `shape` (its last axis a multiple of `block`)."""
        return prod(shape) // self.block * self.block_bytes


F32 = TensorType("f32", 0, 1, 4)
F16 = TensorType("f16", 1, 1, 2)
BF16 = TensorType("bf16", 30, 1, 2)
Q4_0 = TensorType("q4_0", 2, 32, 18)
Q4_1 = TensorType("q4_1", 3, 32, 20)
Q5_0 = TensorType("q5_0", 6, 32, 22)
Q5_1 = TensorType("q5_1", 7, 32, 24)
Q8_0 = TensorType("q8_0", 8, 32, 34)
Q2_K = TensorType("q2_k", 10, 256, 84)
Q3_K = TensorType("q3_k", 11, 256, 110)
Q4_K = TensorType("q4_k", 12, 256, 144)
Q5_K = TensorType("q5_k", 13, 256, 176)
Q6_K = TensorType("q6_k", 14, 256, 210)
IQ4_NL = TensorType("iq4_nl", 20, 32, 18)
IQ4_XS = TensorType("iq4_xs", 23, 256, 136)
MXFP4 = TensorType("mxfp4", 39, 32, 17)

FLOATS = (F32, F16, BF16)
BLOCKS = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4)
SUPER_BLOCKS = (Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS)
TYPES: dict[str, TensorType] = {t.name: t for t in (*FLOATS, *BLOCKS, *SUPER_BLOCKS)}
BY_GGUF_ID: dict[int, TensorType] = {t.gguf_id: t for t in TYPES.values()}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as its file stores it. `data` is uint8 [nbytes], usually a view of mapped memory, row-major
    with the last axis contiguous; `shape` is outermost first (a linear weight is [out, in])."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: NDArray[np.uint8]
