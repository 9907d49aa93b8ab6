"""State dicts of NumPy arrays and torch tensors as a source."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.dequantize import dequantize
from linnet.load.memory import MemorySource


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_tensors_of_any_layout(dtype):
    tensor = torch.nn.Parameter(torch.randn(4, 6).to(dtype))
    source = MemorySource({"whole": tensor, "turned": tensor.T, "part": tensor[:, 1:3]})
    for name, expected in (("whole", tensor), ("turned", tensor.T), ("part", tensor[:, 1:3])):
        assert source.shape(name) == tuple(expected.shape)
        np.testing.assert_array_equal(dequantize(source.read(name)), expected.detach().float().numpy())


def test_numpy_arrays_of_any_layout():
    values = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    source = MemorySource({"w": values, "turned": values.T, "big": values.astype(">f4"), "half": values.astype(np.float16)})
    np.testing.assert_array_equal(dequantize(source.read("turned")), values.T)
    np.testing.assert_array_equal(dequantize(source.read("big")), values)
    np.testing.assert_array_equal(dequantize(source.read("half")), values.astype(np.float16))
    assert np.shares_memory(source.read("w").data, values)
    source.release("w")
    assert source.names() == ["w", "turned", "big", "half"]


def test_contiguous_torch_memory_is_shared():
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    raw = MemorySource({"w": tensor}).read("w")
    tensor[0] = 1.0
    assert dequantize(raw)[0] == 1.0


@pytest.mark.parametrize("value", [np.zeros(3), np.zeros(3, np.int64), torch.zeros(3, dtype=torch.float64), [1.0], None])
def test_other_values_are_named(value):
    with pytest.raises(UnsupportedModelError, match="'w'"):
        MemorySource({"w": value})


def test_tensors_without_plain_data_are_named():
    sparse = torch.eye(3).to_sparse()
    for value, reason in ((torch.zeros(3, device="meta"), "meta"), (sparse, "sparse")):
        with pytest.raises(ModelFileError, match=f"'w' is .*{reason}"):
            MemorySource({"w": value})
    with pytest.raises(ModelFileError, match="NoneType"):
        MemorySource(None)


def test_names_are_texts_and_absent_ones_are_named():
    with pytest.raises(ModelFileError, match="3"):
        MemorySource({3: np.zeros(3, np.float32)})
    for ask in (MemorySource({}).read, MemorySource({}).shape, MemorySource({}).type):
        with pytest.raises(ModelFileError, match="'w'"):
            ask("w")


def test_torch_is_not_imported():
    code = """
import sys, numpy
from linnet.load.memory import MemorySource
MemorySource({"w": numpy.zeros(2, "f")}).read("w")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
