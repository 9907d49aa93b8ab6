"""Block formats in NumPy: raw blocks to float32, and float32 to the formats that are made on load.

Layouts follow ggml (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h); the results are bit for bit those
of the `gguf` package, which the arithmetic below must not be reordered to lose. Slow and plain: the oracle, not the path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnet.errors import UnsupportedModelError
from linnet.tensors import BF16, F16, F32, Q4_0, Q4_K, Q6_K, Q8_0, RawTensor, TensorType

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_CHUNK = 1 << 20
"""Values converted at a time, so that temporaries stay small beside the tensor."""


@dataclass(frozen=True)
class Codec:
    """decode: uint8 [n, block_bytes] -> float32 [n, block]; encode is its inverse, None where nothing makes the type."""

    decode: Callable[[Bytes], Floats]
    encode: Callable[[Floats], Bytes] | None = None


def dequantize(raw: RawTensor) -> Floats:
    """The tensor's values, float32 of `raw.shape`. Raises UnsupportedModelError for a type that has no codec."""
    codec = CODECS.get(raw.type)
    if codec is None:
        raise UnsupportedModelError(f"tensor {raw.name!r} is stored as {raw.type.name}, which this version does not run")
    blocks = raw.data.reshape(-1, raw.type.block_bytes)
    values = np.empty((len(blocks), raw.type.block), np.float32)
    step = _CHUNK // raw.type.block
    with np.errstate(all="ignore"):  # a damaged file may hold infinite scales; they decode to what they say
        for begin in range(0, len(blocks), step):
            values[begin : begin + step] = codec.decode(blocks[begin : begin + step])
    return values.reshape(raw.shape)


def quantize(values: Floats, type: TensorType) -> Bytes:
    """`values` float32 [..., columns] as uint8 [nbytes] of `type`; columns must be a multiple of its block.

    Raises UnsupportedModelError for a type that nothing here encodes.
    """
    codec = CODECS.get(type)
    if codec is None or codec.encode is None:
        raise UnsupportedModelError(f"quantizing to {type.name} is not built; use one of {', '.join(ENCODABLE)}")
    if values.shape[-1] % type.block:
        raise ValueError(f"{values.shape[-1]} columns are not a multiple of {type.name}'s block of {type.block}")
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, type.block)
    data = np.empty((len(blocks), type.block_bytes), np.uint8)
    step = _CHUNK // type.block
    with np.errstate(all="ignore"):  # 1 / 0 where a block is all zeros; overflow of a scale to infinite is the format's
        for begin in range(0, len(blocks), step):
            data[begin : begin + step] = codec.encode(blocks[begin : begin + step])
    return data.reshape(-1)


def _half(data: Bytes) -> Floats:
    """A float16 field [n, 2 bytes] as float32 [n, 1]."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _nibbles(data: Bytes) -> Bytes:
    """uint8 [n, groups, width] -> [n, groups, 2, width]: low halves, then high halves."""
    return np.stack((data & 0x0F, data >> 4), axis=2)


# ---- plain floats


def _decode_f32(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float32)


def _encode_f32(values: Floats) -> Bytes:
    return values.view(np.uint8)


def _encode_f16(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8)


def _decode_bf16(data: Bytes) -> Floats:
    return (np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _encode_bf16(values: Floats) -> Bytes:
    """Rounds to nearest, ties to even; a NaN keeps its sign and upper bits and becomes quiet."""
    bits = values.view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16).view(np.uint8)


# ---- blocks of 32: a float16 scale, then the integers


def _inverse(scale: Floats) -> Floats:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _decode_q8_0(data: Bytes) -> Floats:
    return data[:, 2:].view(np.int8).astype(np.float32) * _half(data[:, :2])


def _encode_q8_0(values: Floats) -> Bytes:
    """The largest magnitude becomes 127; halves round away from zero."""
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scaled = values * _inverse(scale)
    whole = np.floor(np.abs(scaled))
    whole += np.floor(2 * (np.abs(scaled) - whole))
    integers = (np.sign(scaled) * whole).astype(np.int8)
    return np.concatenate((_encode_f16(scale), integers.view(np.uint8)), axis=1)


def _decode_q4_0(data: Bytes) -> Floats:
    """Byte i holds value i in its low half and value i + 16 in its high half, both plus 8."""
    integers = _nibbles(data[:, None, 2:]).reshape(-1, 32).astype(np.int8) - np.int8(8)
    return _half(data[:, :2]) * integers.astype(np.float32)


def _encode_q4_0(values: Floats) -> Bytes:
    """The value of largest magnitude (the first, if several) becomes -8."""
    peak = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    scale = peak / np.float32(-8)
    integers = np.trunc(values * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate((_encode_f16(scale), integers[:, :16] | (integers[:, 16:] << 4)), axis=1)


# ---- K-quants: 256 values in sub-blocks with integer scales of their own


def _decode_q4_k(data: Bytes) -> Floats:
    """8 sub-blocks of 32. Their 6-bit scales and minima share 12 bytes: the first four of each in the low 6 bits of
    bytes 0-3 and 4-7; the last four have their low halves in bytes 8-11 and their top 2 bits atop bytes 0-7."""
    low, minimum_low, rest = data[:, 4:8], data[:, 8:12], data[:, 12:16]
    scales = np.concatenate((low & 63, (rest & 15) | (low >> 6 << 4)), axis=1).astype(np.float32)
    minima = np.concatenate((minimum_low & 63, (rest >> 4) | (minimum_low >> 6 << 4)), axis=1).astype(np.float32)
    integers = _nibbles(data[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32).astype(np.float32)
    scales = (_half(data[:, :2]) * scales)[:, :, None]
    minima = (_half(data[:, 2:4]) * minima)[:, :, None]
    return (scales * integers - minima).reshape(-1, 256)


def _decode_q6_k(data: Bytes) -> Floats:
    """16 sub-blocks of 16 with int8 scales. Each half of 128 values takes 64 bytes of low 4 bits (its values 0-63 in the
    low halves, 64-127 in the high ones) and 32 bytes of top 2 bits (value i in bits 2 * (i // 32) of byte i % 32)."""
    low = _nibbles(data[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = data[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
    integers = ((low | high << 4).astype(np.int8) - np.int8(32)).reshape(-1, 16, 16).astype(np.float32)
    scales = data[:, 192:208].view(np.int8).astype(np.float32)
    return ((_half(data[:, 208:]) * scales)[:, :, None] * integers).reshape(-1, 256)


CODECS: dict[TensorType, Codec] = {
    F32: Codec(_decode_f32, _encode_f32),
    F16: Codec(_half, _encode_f16),
    BF16: Codec(_decode_bf16, _encode_bf16),
    Q8_0: Codec(_decode_q8_0, _encode_q8_0),
    Q4_0: Codec(_decode_q4_0, _encode_q4_0),
    Q4_K: Codec(_decode_q4_k),
    Q6_K: Codec(_decode_q6_k),
}
ENCODABLE = tuple(type.name for type, codec in CODECS.items() if codec.encode)
