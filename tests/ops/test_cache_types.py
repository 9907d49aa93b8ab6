"""What a cache keeps of a number, against the `gguf` package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from linnet.ops.cache_types import KV_TYPES, rounded
from linnet.tensors import TensorType


def through_gguf(values: np.ndarray, type: TensorType) -> np.ndarray:
    stored = GGMLQuantizationType(type.gguf_id)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored)


def floats(rows: int, columns: int) -> np.ndarray:
    """Values of many magnitudes with the cases that rounding turns on: halves, zeros of both signs, a block of zeros."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 4, (rows, 1))).astype(np.float32)
    values[0, :32] = np.arange(-16, 16) + np.float32(0.5)
    values[0, 31] = 127
    values[1, :32] = 0
    values[2, :64:2] = -0.0
    values[3, :32] = np.tile([8.0, -8.0], 16)
    return values


@pytest.mark.parametrize("name", KV_TYPES)
def test_keeps_what_the_gguf_package_keeps(name: str):
    values = floats(50, 96)
    np.testing.assert_array_equal(rounded(values[:, None], KV_TYPES[name])[:, 0], through_gguf(values, KV_TYPES[name]))


def test_bf16_at_its_edges():
    """Every sign and exponent with the cases of rounding: the largest finite value, ties."""
    upper = np.arange(0, 2**16, 3, dtype=np.uint32)
    patterns = (upper[:, None] << 16 | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).astype(np.uint32)
    values = patterns.view(np.float32)
    values = values[np.isfinite(values).all(axis=1)]
    np.testing.assert_array_equal(rounded(values[:, None], KV_TYPES["bf16"])[:, 0], through_gguf(values, KV_TYPES["bf16"]))


def test_f16_saturates_where_an_infinity_would_turn_masked_zeros_into_nan():
    values = np.array([[[1e6, -1e6, 65504.0, 1.0]]], np.float32)
    assert rounded(values, KV_TYPES["f16"]).tolist() == [[[65504.0, -65504.0, 65504.0, 1.0]]]


def test_q8_0_has_blocks_of_32_within_a_head_and_the_rest_in_one_of_its_own():
    values = floats(8, 96)[:, None, :72]
    kept = rounded(values, KV_TYPES["q8_0"])
    for begin in (0, 32, 64):
        part = np.pad(values[:, 0, begin : begin + 32], ((0, 0), (0, max(0, begin + 32 - 72))))
        np.testing.assert_array_equal(kept[:, 0, begin : begin + 32], through_gguf(part, KV_TYPES["q8_0"])[:, : min(32, 72 - begin)])
