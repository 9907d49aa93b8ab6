"""Encoders against the `gguf` package: what they write is read by it, and is no further from the values than what it writes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from linnet import _core
from linnet.errors import InvalidRequestError, ModelFileError
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode
from linnet.tensors import TYPES, RawTensor, TensorType

MADE = [type for type in TYPES.values() if type.name != "f32"]
by_type = pytest.mark.parametrize("type", MADE, ids=lambda t: t.name)


def normal(rows: int = 24, columns: int = 768, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@by_type
def test_gguf_reads_what_is_written(type: TensorType):
    values = normal()
    data = encode(values, type)
    read = gguf.quants.dequantize(data, GGMLQuantizationType(type.gguf_id)).reshape(values.shape)
    np.testing.assert_array_equal(dequantize(RawTensor("w", values.shape, type, data.reshape(-1))), read)
    assert np.square(read - values).mean() < 0.08 * np.square(values).mean()


@by_type
def test_same_bytes_for_any_threads(type: TensorType):
    values = normal(100)
    np.testing.assert_array_equal(encode(values, type, threads=1), encode(values, type, threads=3))


@by_type
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_row(type: TensorType, value: float):
    values = normal()
    values[17, 5] = values[21, 0] = value
    with pytest.raises(ModelFileError, match=r"row 17 .*not finite"):
        encode(values, type, threads=2)


@pytest.mark.parametrize("type", [type for type in MADE if type.block > 1], ids=lambda t: t.name)
def test_rows_that_no_blocks_fill_are_refused(type: TensorType):
    with pytest.raises(InvalidRequestError, match=f"240 .*{type.name}'s block of {type.block}"):
        encode(np.zeros((2, 240), np.float32), type)


def test_instruction_sets_agree():
    """Vector ones bit for bit; the scalar one rounds products and sums apart, and may take another of two answers that are as good."""
    values = normal(columns=512)

    def error(data: np.ndarray, type: TensorType) -> float:
        return float(np.square(dequantize(RawTensor("w", values.shape, type, data.reshape(-1))) - values).mean())

    for type in MADE:
        made = {
            isa: _core.quantize_rows(values.view(np.uint8).reshape(-1), 0, type.gguf_id, *values.shape, None, 1, isa)
            for isa in _core.available_isas()
        }
        scalar = made.pop("scalar")
        for data in made.values():
            np.testing.assert_array_equal(data, next(iter(made.values())))
            assert error(data, type) == pytest.approx(error(scalar, type), rel=2e-3)
