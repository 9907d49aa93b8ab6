"""Plain floats and blocks of 32 values in NumPy: raw blocks to float32.

Layouts follow ggml (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h); the results are bit for bit those
of the `gguf` package, which the arithmetic below must not be reordered to lose. Slow and plain: the oracle, not the path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.tensors import BF16, F16, F32, IQ4_NL, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TensorType

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


Integers = NDArray[np.int8]
Parts = tuple[Floats, Integers, Floats | None]
"""Of n blocks of g groups: scales [n, g], integers [n, g, values], minima [n, g] or None for zeros. A value is its group's scale times its
integer, plus the minimum."""


@dataclass(frozen=True)
class Codec:
    """decode: uint8 [n, block_bytes] -> float32 [n, block]; parts: what decode multiplies and adds, None for floats."""

    decode: Callable[[Bytes], Floats]
    parts: Callable[[Bytes], Parts] | None = None


def of_parts(parts: Callable[[Bytes], Parts]) -> Codec:
    return Codec(partial(_decode, parts), parts)


def _decode(parts: Callable[[Bytes], Parts], data: Bytes) -> Floats:
    scales, integers, minima = parts(data)
    values = scales[:, :, None] * integers.astype(np.float32)
    if minima is not None:
        values += minima[:, :, None]
    return values.reshape(len(data), -1)


def half(data: Bytes) -> Floats:
    """A float16 field [n, 2 bytes] as float32 [n, 1]."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def fields(data: Bytes, bits: int) -> Bytes:
    """uint8 [n, groups, width] -> [n, groups, 8 / bits, width]: the lowest `bits` of every byte, then the next ones."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return data[:, :, None] >> shifts & np.uint8((1 << bits) - 1)


# ---- plain floats


def _decode_f32(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float32)


def _decode_bf16(data: Bytes) -> Floats:
    return (np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# ---- blocks of 32: a scale, perhaps a minimum, then the integers


def _four_bits(data: Bytes) -> Bytes:
    """16 bytes to 32 integers, [n, 1, 32]: byte i holds value i in its low half and value i + 16 in its high half."""
    return fields(data[:, None], 4).reshape(-1, 1, 32)


def signed(integers: NDArray[Any], zero: int = 0) -> Integers:
    """Small uint8 integers less `zero`."""
    return integers.view(np.int8) - np.int8(zero)


def _five_bits(data: Bytes) -> Bytes:
    """20 bytes to 32 integers: the fifth bit of value i is bit i of the first four bytes; `_four_bits` has the others."""
    high = np.unpackbits(data[:, :4], axis=1, bitorder="little")
    return _four_bits(data[:, 4:]) | high[:, None] << np.uint8(4)


def _parts_q8_0(data: Bytes) -> Parts:
    return half(data[:, :2]), data[:, None, 2:].view(np.int8), None


def _parts_q4_0(data: Bytes) -> Parts:
    return half(data[:, :2]), signed(_four_bits(data[:, 2:]), 8), None


def _parts_q4_1(data: Bytes) -> Parts:
    return half(data[:, :2]), signed(_four_bits(data[:, 4:])), half(data[:, 2:4])


def _parts_q5_0(data: Bytes) -> Parts:
    return half(data[:, :2]), signed(_five_bits(data[:, 2:]), 16), None


def _parts_q5_1(data: Bytes) -> Parts:
    return half(data[:, :2]), signed(_five_bits(data[:, 4:])), half(data[:, 2:4])


def _parts_iq4_nl(data: Bytes) -> Parts:
    """Sixteen levels that are not evenly spaced."""
    return half(data[:, :2]), IQ4_LEVELS[_four_bits(data[:, 2:])], None


def _parts_mxfp4(data: Bytes) -> Parts:
    """OCP Microscaling Formats 1.0: a power of two from an eight-bit exponent, and E2M1 values."""
    scale = np.ldexp(np.float32(1), data[:, :1].astype(np.int32) - 128)  # half of 2^(e - 127): the levels are doubled
    return scale, _E2M1_DOUBLED[_four_bits(data[:, 1:])], None


BLOCK_CODECS: dict[TensorType, Codec] = {
    F32: Codec(_decode_f32),
    F16: Codec(half),
    BF16: Codec(_decode_bf16),
    Q8_0: of_parts(_parts_q8_0),
    Q4_0: of_parts(_parts_q4_0),
    Q4_1: of_parts(_parts_q4_1),
    Q5_0: of_parts(_parts_q5_0),
    Q5_1: of_parts(_parts_q5_1),
    IQ4_NL: of_parts(_parts_iq4_nl),
    MXFP4: of_parts(_parts_mxfp4),
}
