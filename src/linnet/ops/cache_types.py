"""What each type of cache keeps of a key or value: the definitions, in NumPy, that kernels follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linnet.ops.base import KV_DTYPES
from linnet.tensors import BF16, F16, F32, Q8_0, TensorType

X = NDArray[np.float32]

KV_TYPES = {"f16": F16, "bf16": BF16, "q8_0": Q8_0, "f32": F32}
assert set(KV_TYPES) == set(KV_DTYPES)


def rounded(x: X, type: TensorType) -> X:
    """What a cache of this type keeps of keys or values [n, heads, width]; q8_0 in blocks of 32 within a head."""
    if type == F16:  # saturates: an infinity would turn masked zeros into NaN
        return np.clip(x, np.float32(-65504), np.float32(65504)).astype(np.float16).astype(np.float32)
    if type == BF16:
        bits = x.view(np.uint32).astype(np.uint64)
        return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)  # to nearest, ties to even
    return _through_q8_0(x) if type == Q8_0 else x


def _through_q8_0(x: X) -> X:
    """Of each block the largest magnitude becomes 127; halves round away from zero, with the scale as float32, which is then float16."""
    width = x.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (0, -width % Q8_0.block)))
    blocks = padded.reshape(-1, Q8_0.block)
    with np.errstate(all="ignore"):
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        scaled = blocks * np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        whole = np.floor(np.abs(scaled))
        integers = np.sign(scaled) * (whole + np.floor(2 * (np.abs(scaled) - whole)))
        kept = integers * scale.astype(np.float16).astype(np.float32)
    whole_heads: X = kept.reshape(padded.shape)
    return whole_heads[..., :width]
