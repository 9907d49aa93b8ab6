"""How far what is written is from the values, against encoders that are not ours: the `gguf` package's and llama.cpp's own."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

import encoders
import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from linnet.errors import InvalidRequestError, ModelFileError
from linnet.load.encode import encode
from linnet.tensors import BLOCKS, Q4_0, SUPER_BLOCKS, TYPES, TensorType

ROWS, COLUMNS = 16, 1024
BLOCK_TYPES = (*BLOCKS, *SUPER_BLOCKS)
by_type = pytest.mark.parametrize("type", BLOCK_TYPES, ids=lambda t: t.name)
LARGEST = {"q4_0": 8, "q4_1": 1, "q5_0": 16, "q5_1": 1, "q8_0": 127, "iq4_nl": 127, "q2_k": 15, "q3_k": 128, "q4_k": 63, "q5_k": 63}
LARGEST |= {"q6_k": 32 * 128, "iq4_xs": 127 * 32}
"""What a type holds at most, in float16's largest."""


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    normal = rng.standard_normal((ROWS, COLUMNS))
    values = {
        "normal": normal,
        "heavy tails": rng.standard_t(3, (ROWS, COLUMNS)),
        "outlier columns": normal * np.where(rng.random(COLUMNS) < 0.02, 10, 1),
        "rows of many sizes": normal * 10.0 ** np.linspace(-4, 4, ROWS)[:, None],
        "all of one sign": np.abs(normal),
    }
    return {name: array.astype(np.float32) for name, array in values.items()}


def decode(data: np.ndarray, type: TensorType) -> np.ndarray:
    return gguf.quants.dequantize(data, GGMLQuantizationType(type.gguf_id)).reshape(len(data), -1)


def error(values: np.ndarray, data: np.ndarray, type: TensorType, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Weighted squared error over weighted square, row by row."""
    with np.errstate(over="ignore"):
        lost = decode(data, type).astype(np.float64) - values
    return (weights * lost**2).sum(axis=1) / (weights * values.astype(np.float64) ** 2).sum(axis=1)


@by_type
@pytest.mark.parametrize("name", inputs())
def test_no_further_than_plain_rounding(type: TensorType, name: str):
    """What the gguf package encodes, or of types that it does not, the plain rounding of tests/load."""
    values = inputs()[name]
    plain = np.asarray(encoders.encode(values, GGMLQuantizationType(type.gguf_id)))
    assert error(values, encode(values, type), type).mean() <= 1.001 * error(values, plain, type).mean()


@pytest.mark.peers
@by_type
@pytest.mark.parametrize("name", inputs())
def test_no_further_than_llama_cpp(type: TensorType, name: str):
    values = inputs()[name]
    rng = np.random.default_rng(6)
    importance = np.exp(rng.standard_normal(COLUMNS)).astype(np.float32)
    ours, theirs = encode(values, type), by_llama_cpp(values, type)
    assert error(values, ours, type).mean() <= 1.01 * error(values, theirs, type).mean()
    if type.name not in ("q8_0", "mxfp4"):  # where llama.cpp does not look at importance
        ours, theirs = encode(values, type, importance), by_llama_cpp(values, type, importance)
        assert error(values, ours, type, importance).mean() <= 1.01 * error(values, theirs, type, importance).mean()


def by_llama_cpp(values: np.ndarray, type: TensorType, importance: np.ndarray | None = None) -> np.ndarray:
    """Rows by `ggml_quantize_chunk`, which is what `llama-quantize` calls."""
    module: Any = import_module("llama_cpp")
    library = ctypes.CDLL(str(next((Path(module.__file__).parent / "lib").glob("*ggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    values = np.ascontiguousarray(values, np.float32)
    data = np.zeros((len(values), type.nbytes((values.shape[1],))), np.uint8)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) if array is not None else None for array in (values, data, importance)]
    count = library.ggml_quantize_chunk(type.gguf_id, *pointers[:2], *(ctypes.c_int64(n) for n in (0, *values.shape)), pointers[2])
    assert count == data.size
    return data


@pytest.mark.parametrize("type", [t for t in BLOCK_TYPES if t.name not in ("q8_0", "mxfp4")], ids=lambda t: t.name)
def test_importance_lowers_the_error_that_it_weighs(type: TensorType):
    values = inputs()["normal"]
    importance = np.exp(1.5 * np.random.default_rng(7).standard_normal(COLUMNS)).astype(np.float32)
    weighed, plain = encode(values, type, importance), encode(values, type)
    assert error(values, weighed, type, importance).mean() < 0.97 * error(values, plain, type, importance).mean()


@by_type
def test_importance_of_nothing_at_all_is_none(type: TensorType):
    """All zero, and beyond what float32 squares hold: no block is lost over it."""
    values = inputs()["normal"]
    plain = encode(values, type)
    np.testing.assert_array_equal(encode(values, type, np.zeros(COLUMNS, np.float32)), plain)
    for importance in (np.full(COLUMNS, 1e-38, np.float32), np.full(COLUMNS, 3e38, np.float32)):
        assert error(values, encode(values, type, importance), type).mean() < 1.01 * error(values, plain, type).mean()
    half = np.where(np.arange(COLUMNS) < 512, 1, 0).astype(np.float32)
    assert error(values[:, 512:], encode(values, type, half)[:, plain.shape[1] // 2 :], type).mean() < 0.1


@by_type
def test_values_at_the_edges(type: TensorType):
    coarse = 0.05  # mxfp4: powers of two times eight levels
    zeros = np.zeros((2, 256), np.float32)
    np.testing.assert_array_equal(decode(encode(zeros, type), type), zeros)
    for one in (1.0, -3.5, 1e-3, 1000.0):
        values = np.full((2, 256), one, np.float32)
        assert error(values, encode(values, type), type).max() < (coarse if type.name == "mxfp4" else 0.001), one
    tiny = np.full((2, 256), 1e-42, np.float32)
    assert np.abs(decode(encode(tiny, type), type)).max() < 1e-7
    alone = zeros.copy()
    alone[1, 77] = -2.5
    assert error(alone[1:], encode(alone, type)[1:], type).max() < (
        coarse if type.name == "mxfp4" else 0.003
    )  # iq4: there is no level at zero


def test_values_that_a_type_cannot_hold_are_refused():
    values = np.ones((3, 256), np.float32)
    values[2, 9] = 1e10
    with pytest.raises(ModelFileError, match=r"row 2 holds 1e\+10, more than the 524032"):
        encode(values, Q4_0)
    assert np.isfinite(decode(encode(values, TYPES["mxfp4"]), TYPES["mxfp4"])).all()


@by_type
@pytest.mark.parametrize("signs", ["plus", "minus", "both"])
def test_the_largest_values_that_are_taken_are_held(type: TensorType, signs: str):
    shape = np.random.default_rng(3).uniform(0.25, 1, (16, 256))
    shape[:, 5] = 1
    shape *= {"plus": 1, "minus": -1, "both": np.where(np.arange(256) % 3, -1, 1)}[signs]
    small, largest = shape.astype(np.float32), np.float32(65504 * LARGEST[type.name]) if type.name in LARGEST else np.float32(1e38)
    lost = error(largest * small, encode(largest * small, type), type)
    assert (lost < 2 * error(small, encode(small, type), type) + 0.03).all()
    if type.name in LARGEST:
        with pytest.raises(ModelFileError, match="row 0 holds"):
            encode(np.float32(1.01) * largest * small, type)


@pytest.mark.parametrize("importance", [np.ones(255), np.ones((1, 256)), -np.ones(256), np.full(256, np.nan), np.full(256, np.inf)])
def test_importance_that_fits_nothing_is_refused(importance: np.ndarray):
    with pytest.raises(InvalidRequestError, match="importance"):
        encode(np.ones((2, 256), np.float32), Q4_0, importance.astype(np.float32))
