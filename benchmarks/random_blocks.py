"""Random weights straight in the block formats of GGUF: files of billions of weights in seconds, for measuring speed.

Every function gives uint8 [rows, bytes a row]. Scales are such that the weights' deviation is WEIGHT_STD and their mean about 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

WEIGHT_STD = 0.02  # as transformers initialises; keeps activations finite through all layers

Bytes = NDArray[np.uint8]
Random = np.random.Generator


def _half(value: float) -> Bytes:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


def f16(random: Random, rows: int, columns: int) -> Bytes:
    """Uniform, of two bytes each."""
    uniform = random.random((rows, columns), np.float32) - np.float32(0.5)
    return (uniform * np.float32(WEIGHT_STD * 12**0.5)).astype(np.float16).view(np.uint8)


def q8_0(random: Random, rows: int, columns: int) -> Bytes:
    """Blocks of 32: a float16 scale, then signed bytes."""
    blocks = np.empty((rows, columns // 32, 34), np.uint8)
    blocks[..., :2] = _half(WEIGHT_STD / 73)  # 73: deviation of a uniform byte
    blocks[..., 2:] = random.integers(-127, 128, (rows, columns // 32, 32), dtype=np.int8).view(np.uint8)
    return blocks.reshape(rows, -1)


def q4_0(random: Random, rows: int, columns: int) -> Bytes:
    """Blocks of 32: a float16 scale, then nibbles, each worth (n - 8) * scale."""
    blocks = random.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
    blocks[..., :2] = _half(WEIGHT_STD / 4.6)  # 4.6: deviation of a uniform nibble
    return blocks.reshape(rows, -1)


def q4_k(random: Random, rows: int, columns: int) -> Bytes:
    """Blocks of 256: float16 scales of scales and of minimums, 12 bytes of eight 6-bit scales and minimums, then nibbles. A weight is
    d * scale * n - dmin * minimum; with dmin 7.5 times d its mean is 0, and 258 is its deviation over d."""
    blocks = random.integers(0, 256, (rows, columns // 256, 144), dtype=np.uint8)
    blocks[..., :2], blocks[..., 2:4] = _half(WEIGHT_STD / 258), _half(WEIGHT_STD / 258 * 7.5)
    return blocks.reshape(rows, -1)


def q6_k(random: Random, rows: int, columns: int) -> Bytes:
    """Blocks of 256: 192 bytes of 6-bit values, 16 signed bytes of scales, a float16 scale of these."""
    blocks = random.integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., 192:208] = random.integers(1, 9, (rows, columns // 256, 16), dtype=np.uint8)
    blocks[..., 208:] = _half(WEIGHT_STD / (18.5 * 4.5))  # 18.5: deviation of a uniform 6-bit value; 4.5: mean sub-scale
    return blocks.reshape(rows, -1)


RANDOM: dict[Type, Callable[[Random, int, int], Bytes]] = {
    Type.F16: f16,
    Type.Q8_0: q8_0,
    Type.Q4_0: q4_0,
    Type.Q4_K: q4_k,
    Type.Q6_K: q6_k,
}
