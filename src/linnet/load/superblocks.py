"""Super-blocks in NumPy: 256 values in sub-blocks that have integer scales of their own. Says of results what `blocks.py` says."""

from __future__ import annotations

import numpy as np

from linnet.load.blocks import IQ4_LEVELS, Bytes, Codec, Floats, Parts, fields, half, of_parts, signed
from linnet.tensors import IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, TensorType


def _parts_q2_k(data: Bytes) -> Parts:
    """16 sub-blocks of 16; a byte holds a sub-block's scale (low half) and minimum (high half). Each half of 128 values
    takes 32 bytes: value i in bits 2 * (i // 32) of byte i % 32."""
    scales = half(data[:, 80:82]) * (data[:, :16] & 15).astype(np.float32)
    minima = half(data[:, 82:84]) * (data[:, :16] >> 4).astype(np.float32)
    return scales, signed(fields(data[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)), -minima


def _parts_q3_k(data: Bytes) -> Parts:
    """16 sub-blocks of 16, low 2 bits as Q2_K's; bit j of byte i of the first 32 is the top bit of value 32 * j + i, and 4 is
    subtracted. Of the 6-bit scales, 8 bytes hold the low halves (0-7 low, 8-15 high) and 4 bytes the top 2 bits."""
    low = fields(data[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    high = fields(data[:, None, :32], 1).reshape(-1, 16, 16)
    scales = fields(data[:, None, 96:104], 4).reshape(-1, 16) | fields(data[:, None, 104:108], 2).reshape(-1, 16) << 4
    return half(data[:, 108:]) * (scales.astype(np.float32) - 32), signed(low | high << 2, 4), None


def _scales_and_minima(data: Bytes) -> tuple[Floats, Floats]:
    """Of the 8 sub-blocks of Q4_K and Q5_K, each [n, 8]. The 6-bit integers share 12 bytes: the first four of each in the
    low 6 bits of bytes 0-3 and 4-7; the last four have their low halves in bytes 8-11 and their top 2 bits atop bytes 0-7."""
    low, minimum_low, rest = data[:, 4:8], data[:, 8:12], data[:, 12:16]
    scales = np.concatenate((low & 63, (rest & 15) | (low >> 6 << 4)), axis=1).astype(np.float32)
    minima = np.concatenate((minimum_low & 63, (rest >> 4) | (minimum_low >> 6 << 4)), axis=1).astype(np.float32)
    return half(data[:, :2]) * scales, half(data[:, 2:4]) * minima


def _parts_q4_k(data: Bytes) -> Parts:
    """8 sub-blocks of 32; 32 bytes hold one in their low halves and the next in their high ones."""
    scales, minima = _scales_and_minima(data)
    return scales, signed(fields(data[:, 16:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)), -minima


def _parts_q5_k(data: Bytes) -> Parts:
    """As Q4_K; bit j of byte i of 32 more is the fifth bit of value i of sub-block j."""
    scales, minima = _scales_and_minima(data)
    low = fields(data[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    high = fields(data[:, None, 16:48], 1).reshape(-1, 8, 32)
    return scales, signed(low | high << 4), -minima


def _parts_q6_k(data: Bytes) -> Parts:
    """16 sub-blocks of 16 with int8 scales. Each half of 128 values takes 64 bytes of low 4 bits (its values 0-63 in the
    low halves, 64-127 in the high ones) and 32 bytes of top 2 bits (value i in bits 2 * (i // 32) of byte i % 32)."""
    low = fields(data[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 16, 16)
    high = fields(data[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    scales = half(data[:, 208:]) * data[:, 192:208].view(np.int8).astype(np.float32)
    return scales, signed(low | high << 4, 32), None


def _parts_iq4_xs(data: Bytes) -> Parts:
    """8 sub-blocks of 32 laid out as IQ4_NL's; their 6-bit scales have low halves in 4 bytes and top 2 bits in 2."""
    low, high = fields(data[:, 4:8, None], 4).reshape(-1, 8), fields(data[:, 2:4, None], 2).reshape(-1, 8)
    scales = half(data[:, :2]) * ((low | high << 4).astype(np.float32) - 32)
    levels = IQ4_LEVELS[fields(data[:, 8:].reshape(-1, 8, 16), 4).reshape(-1, 8, 32)]
    return scales, levels, None


SUPER_BLOCK_CODECS: dict[TensorType, Codec] = {
    Q2_K: of_parts(_parts_q2_k),
    Q3_K: of_parts(_parts_q3_k),
    Q4_K: of_parts(_parts_q4_k),
    Q5_K: of_parts(_parts_q5_k),
    Q6_K: of_parts(_parts_q6_k),
    IQ4_XS: of_parts(_parts_iq4_xs),
}
