"""Block formats against the `gguf` package, bit for bit."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from linnet.errors import UnsupportedModelError
from linnet.load.dequantize import CODECS, dequantize
from linnet.tensors import BLOCKS, SUPER_BLOCKS, TYPES, RawTensor, TensorType

BLOCK_TYPES = (*BLOCKS, *SUPER_BLOCKS)


def gguf_type(type: TensorType) -> GGMLQuantizationType:
    return GGMLQuantizationType(type.gguf_id)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)


def test_every_type_has_a_codec():
    assert set(CODECS) == set(TYPES.values())


@pytest.mark.parametrize("type", TYPES.values(), ids=lambda t: t.name)
def test_decodes_any_bytes_like_gguf(type: TensorType):
    shape = (7, 3, 512)
    data = np.random.default_rng(1).integers(0, 256, type.nbytes(shape), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data.reshape(7, 3, -1), gguf_type(type))
    found = dequantize(RawTensor("w", shape, type, data))
    assert found.shape == shape
    assert found.dtype == np.float32
    number = ~np.isnan(expected)  # random scales are sometimes NaN, whose payload is the processor's affair
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(bits(found[number]), bits(expected[number]))


@pytest.mark.parametrize("type", BLOCK_TYPES, ids=lambda t: t.name)
def test_decodes_extreme_blocks_like_gguf(type: TensorType):
    """Every byte the same, for every byte; and every byte in every place of a block of zeros or of 0x3C (a scale of about 1)."""
    same = np.repeat(np.arange(256, dtype=np.uint8)[:, None], type.block_bytes, axis=1)
    alone = np.eye(type.block_bytes, dtype=np.uint8)[:, None] * np.arange(1, 256, dtype=np.uint8)[:, None]
    blocks = np.concatenate((same, alone.reshape(-1, type.block_bytes), alone.reshape(-1, type.block_bytes) ^ 0x3C))
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf_type(type))
    found = dequantize(RawTensor("w", expected.shape, type, blocks.reshape(-1)))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(bits(found[number]), bits(expected[number]))


def test_chunks_join_without_a_seam():
    """More values than one chunk, decoded as a whole and by rows."""
    values = np.random.default_rng(0).standard_normal((5000, 256)).astype(np.float32)
    for name in ("q8_0", "q4_0", "bf16"):
        type = TYPES[name]
        data = gguf.quants.quantize(values, gguf_type(type)).reshape(-1).view(np.uint8)
        whole = dequantize(RawTensor("w", values.shape, type, data))
        row = dequantize(RawTensor("w", (256,), type, data[4999 * type.nbytes((256,)) :]))
        np.testing.assert_array_equal(whole[4999], row)


def test_reads_data_that_is_not_aligned():
    data = np.zeros(1 + 2 * 144, np.uint8)
    data[1:] = np.random.default_rng(2).integers(0, 100, 288, np.uint8)
    view = data[1:]
    np.testing.assert_array_equal(
        dequantize(RawTensor("w", (2, 256), TYPES["q4_k"], view)), dequantize(RawTensor("w", (2, 256), TYPES["q4_k"], view.copy()))
    )


def test_types_that_do_not_run_are_named():
    other = TensorType("q8_k", 15, 256, 292)
    with pytest.raises(UnsupportedModelError, match=r"'blk.0'.*q8_k"):
        dequantize(RawTensor("blk.0", (256,), other, np.zeros(292, np.uint8)))
