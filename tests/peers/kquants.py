"""Q4_K and Q6_K blocks from float32, by plain rounding: enough for files that other programs must read.

The `gguf` package only decodes these. Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 256


def quantize_q6_k(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[rows, columns] -> uint8 [rows, columns / 256 * 210]: 16 sub-blocks of 16, each value (q - 32) * scale * d."""
    x = values.reshape(-1, 16, 16)
    largest = np.abs(x).max(axis=2)
    d = (largest.max(axis=1) / (31 * 127)).astype(np.float16)
    scales = np.rint(_divide(largest / 31, d[:, None])).astype(np.int8)
    steps = scales.astype(np.float32) * d[:, None].astype(np.float32)
    q = (np.clip(np.rint(_divide(x, steps[:, :, None])), -32, 31) + 32).astype(np.uint8)

    # Of each half of 128, four runs of 32: low nibbles pair runs 0 with 2 and 1 with 3, high bits share a byte.
    runs = q.reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | ((runs[:, :, 2:] & 15) << 4)
    bits = runs >> 4
    high = bits[:, :, 0] | (bits[:, :, 1] << 2) | (bits[:, :, 2] << 4) | (bits[:, :, 3] << 6)
    return _blocks(values, low, high, scales.view(np.uint8), d.view(np.uint8))


def quantize_q4_k(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[rows, columns] -> uint8 [rows, columns / 256 * 144]: 8 sub-blocks of 32, each value q * scale * d - minimum * dmin."""
    x = values.reshape(-1, 8, 32)
    lowest = np.minimum(x.min(axis=2), 0)
    spread = (x.max(axis=2) - lowest) / 15
    d, dmin = ((top.max(axis=1) / 63).astype(np.float16) for top in (spread, -lowest))
    scales = np.minimum(np.rint(_divide(spread, d[:, None])), 63).astype(np.uint8)
    minima = np.minimum(np.rint(_divide(-lowest, dmin[:, None])), 63).astype(np.uint8)
    steps = scales * d[:, None].astype(np.float32)
    offsets = minima * dmin[:, None].astype(np.float32)
    q = np.clip(np.rint(_divide(x + offsets[:, :, None], steps[:, :, None])), 0, 15).astype(np.uint8)

    runs = q.reshape(-1, 4, 2, 32)
    nibbles = runs[:, :, 0] | (runs[:, :, 1] << 4)
    # Eight 6-bit scales and minima in 12 bytes: the last four lend their upper two bits to the first eight bytes.
    first = np.concatenate([scales[:, :4] | (scales[:, 4:] >> 4 << 6), minima[:, :4] | (minima[:, 4:] >> 4 << 6)], axis=1)
    last = (scales[:, 4:] & 15) | (minima[:, 4:] << 4)
    return _blocks(values, d.view(np.uint8), dmin.view(np.uint8), first, last, nibbles)


def _divide(a: NDArray[np.float32], b: NDArray[np.floating]) -> NDArray[np.float32]:
    """a / b in float32, and 0 where b is 0."""
    b = np.broadcast_to(b.astype(np.float32), a.shape)
    return np.asarray(np.divide(a, b, out=np.zeros(a.shape, np.float32), where=b != 0))


def _blocks(values: NDArray[np.float32], *parts: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The parts of every block side by side, rows as in `values`."""
    count = values.size // BLOCK
    blocks = np.concatenate([part.astype(np.uint8).reshape(count, -1) for part in parts], axis=1)
    return blocks.reshape(values.shape[0], -1)
