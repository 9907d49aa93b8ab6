"""Makes tensors of every type that runs, for tests that need files. By the `gguf` package where it has an encoder; for the
other types that have kernels by a plain rounding of our own (valid blocks, if not the best ones, and the same everywhere);
for those that have none, whose codebooks take a search, random blocks of the right size.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def encode(values: NDArray[Any], type: Type) -> NDArray[Any]:
    """float32 [..., columns] as `GGUFWriter.add_tensor` takes it."""
    values = np.ascontiguousarray(values, np.float32)
    maker = ROUNDED.get(type) or RANDOM.get(type)
    if maker is None:
        stored: NDArray[Any] = gguf.quants.quantize(values, type)
        return stored
    return maker(values.reshape(-1, GGML_QUANT_SIZES[type][0])).reshape(*values.shape[:-1], -1)


def half(values: NDArray[Any]) -> Bytes:
    """[n] or [n, 1] as float16 [n, 2 bytes]."""
    return values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def as_half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def ratio(values: NDArray[Any], by: NDArray[Any]) -> Floats:
    """values / by in float32, 0 where `by` is 0."""
    by = np.broadcast_to(by.astype(np.float32), np.broadcast_shapes(values.shape, by.shape))
    return np.asarray(np.divide(values, by, out=np.zeros(by.shape, np.float32), where=by != 0))


def join(fields: NDArray[Any], bits: int) -> Bytes:
    """Fields [n, groups, 8 / bits, width] side by side, the first lowest: [n, groups * width]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.asarray(np.bitwise_or.reduce(fields.astype(np.uint8) << shifts, axis=2).reshape(len(fields), -1))


def nearest(values: Floats, levels: NDArray[Any]) -> NDArray[Any]:
    """The index of the level that is nearest to each value."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order]
    return np.asarray(order[np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values)])


def with_minima(values: Floats, width: int, top: int, top_scale: int) -> tuple[Floats, Floats, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Sub-blocks of `width` as d * scale * q - dmin * minimum, q to `top`, scales and minima to `top_scale`: d and dmin [n, 1],
    scales and minima [n, sub-blocks], q [n, sub-blocks, width]."""
    parts = values.reshape(len(values), -1, width)
    lowest = np.minimum(parts.min(axis=2), 0)
    wanted = (parts.max(axis=2) - lowest) / np.float32(top)
    d, dmin = (as_half(x.max(axis=1, keepdims=True) / np.float32(top_scale)) for x in (wanted, -lowest))
    scales, minima = (np.rint(ratio(x, by)).clip(0, top_scale) for x, by in ((wanted, d), (-lowest, dmin)))
    q = np.rint(ratio(parts + (dmin * minima)[:, :, None], (d * scales)[:, :, None])).clip(0, top)
    return d, dmin, scales.astype(np.uint8), minima.astype(np.uint8), q.astype(np.uint8)


def q2_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = with_minima(values, 16, 3, 15)
    return np.concatenate((scales | minima << 4, join(q.reshape(-1, 2, 4, 32), 2), half(d), half(dmin)), axis=1)


def scales_and_minima(scales: NDArray[Any], minima: NDArray[Any]) -> Bytes:
    """Eight of each, 6 bits wide, in 12 bytes: the last four lend their top 2 bits to the first eight bytes."""
    first = (scales[:, :4] | scales[:, 4:] >> 4 << 6, minima[:, :4] | minima[:, 4:] >> 4 << 6)
    return np.concatenate((*first, (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4), axis=1)


def q4_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = with_minima(values, 32, 15, 63)
    return np.concatenate((half(d), half(dmin), scales_and_minima(scales, minima), join(q.reshape(-1, 4, 2, 32), 4)), axis=1)


def q5_k(values: Floats) -> Bytes:
    d, dmin, scales, minima, q = with_minima(values, 32, 31, 63)
    high, low = join(q.reshape(-1, 1, 8, 32) >> 4, 1), join(q.reshape(-1, 4, 2, 32) & 15, 4)
    return np.concatenate((half(d), half(dmin), scales_and_minima(scales, minima), high, low), axis=1)


def symmetric(values: Floats, most: int, top_scale: int) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """16 sub-blocks of 16 as d * scale * q, q from -most - 1 to most: d [n, 1], scales [n, 16], q [n, 256] from 0 up."""
    parts = values.reshape(-1, 16, 16)
    wanted = np.abs(parts).max(axis=2) / np.float32(most)
    d = as_half(wanted.max(axis=1, keepdims=True) / np.float32(top_scale))
    scales = np.rint(ratio(wanted, d)).clip(0, top_scale)
    q = np.rint(ratio(parts, (d * scales)[:, :, None])).clip(-most - 1, most) + most + 1
    return d, scales.astype(np.uint8), q.astype(np.uint8).reshape(-1, 256)


def q3_k(values: Floats) -> Bytes:
    d, scales, q = symmetric(values, 3, 31)
    scales += 32
    packed = join((scales & 15).reshape(-1, 1, 2, 8), 4), join((scales >> 4).reshape(-1, 1, 4, 4), 2)
    return np.concatenate((join(q.reshape(-1, 1, 8, 32) >> 2, 1), join(q.reshape(-1, 2, 4, 32) & 3, 2), *packed, half(d)), axis=1)


def q6_k(values: Floats) -> Bytes:
    d, scales, q = symmetric(values, 31, 127)
    low, high = join(q.reshape(-1, 2, 2, 64) & 15, 4), join(q.reshape(-1, 2, 4, 32) >> 4, 2)
    return np.concatenate((low, high, scales, half(d)), axis=1)


IQ4_LEVELS = np.array(gguf.quants.IQ4_NL.kvalues, np.float32)
E2M1_LEVELS = np.array(gguf.quants.MXFP4.kvalues, np.float32)


def peaks(parts: Floats) -> Floats:
    """The value of largest magnitude along the last axis, which is kept."""
    return np.asarray(np.take_along_axis(parts, np.abs(parts).argmax(axis=-1, keepdims=True), axis=-1))


def iq4_nl(values: Floats) -> Bytes:
    d = as_half(peaks(values) / np.float32(-127))
    return np.concatenate((half(d), join(nearest(ratio(values, d), IQ4_LEVELS).reshape(-1, 1, 2, 16), 4)), axis=1)


def iq4_xs(values: Floats) -> Bytes:
    parts = values.reshape(-1, 8, 32)
    wanted = peaks(parts)[:, :, 0] / np.float32(-127)
    d = as_half(np.abs(wanted).max(axis=1, keepdims=True) / np.float32(31))
    scales = np.rint(ratio(wanted, d)).clip(-32, 31)
    q = nearest(ratio(parts, (d * scales)[:, :, None]), IQ4_LEVELS)
    packed = (scales + 32).astype(np.uint8)
    high, low = join((packed >> 4).reshape(-1, 2, 4, 1), 2), join((packed & 15).reshape(-1, 4, 2, 1), 4)
    return np.concatenate((half(d), high, low, join(q.reshape(-1, 8, 2, 16), 4)), axis=1)


def mxfp4(values: Floats) -> Bytes:
    exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1] - 1 - 2  # the largest E2M1 value is 1.5 * 2^2
    q = nearest(np.ldexp(values, 1 - exponent), E2M1_LEVELS)  # the levels are doubled
    return np.concatenate(((exponent + 127).clip(0, 254).astype(np.uint8), join(q.reshape(-1, 1, 2, 16), 4)), axis=1)


ROUNDED: dict[Type, Callable[[Floats], Bytes]] = {
    Type.Q2_K: q2_k,
    Type.Q3_K: q3_k,
    Type.Q4_K: q4_k,
    Type.Q5_K: q5_k,
    Type.Q6_K: q6_k,
    Type.IQ4_NL: iq4_nl,
    Type.IQ4_XS: iq4_xs,
    Type.MXFP4: mxfp4,
}


# ---- types without kernels


def random_maker(type: Type, put_scale: Callable[[Bytes, float], None]) -> Callable[[Floats], Bytes]:
    def make(values: Floats) -> Bytes:
        """Random blocks, drawn by the values, whose root mean square is theirs (or within a power of two of it)."""
        blocks = np.random.default_rng(zlib.crc32(values.tobytes())).integers(0, 256, (len(values), GGML_QUANT_SIZES[type][1]), np.uint8)
        put_scale(blocks, 1.0)
        unit = np.sqrt(np.square(gguf.quants.dequantize(blocks, type)).mean())
        put_scale(blocks, float(np.sqrt(np.square(values).mean()) / unit))
        return blocks

    return make


def at(offset: int) -> Callable[[Bytes, float], None]:
    """Puts a float16 scale at an offset of every block."""

    def put(blocks: Bytes, scale: float) -> None:
        blocks[:, offset : offset + 2] = half(np.array([scale]))

    return put


def put_iq1_m_scale(blocks: Bytes, scale: float) -> None:
    """Its float16 is spread over the top four bits of the last four 16-bit words."""
    bits = int(np.float16(scale).view(np.uint16))
    for word in range(4):
        blocks[:, 49 + 2 * word] = blocks[:, 49 + 2 * word] & 15 | (bits >> 4 * word & 15) << 4


def put_nvfp4_scale(blocks: Bytes, scale: float) -> None:
    """Four bytes of E4M3, here all the nearest power of two."""
    blocks[:, :4] = int(np.clip(round(np.log2(scale)) + 7, 1, 14)) << 3


SCALES = {Type.IQ1_S: at(0), Type.IQ1_M: put_iq1_m_scale, Type.NVFP4: put_nvfp4_scale}
SCALES |= {type: at(0) for type in (Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S)}
RANDOM = {type: random_maker(type, put_scale) for type, put_scale in SCALES.items()}
