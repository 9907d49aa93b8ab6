"""The safetensors readers against the `safetensors` package, and against files that lie."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.dequantize import dequantize
from linnet.load.safetensors import INDEX, read_safetensors, read_sharded_safetensors


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_package_writes(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 5),
        "b.weight": torch.randn(7).half(),
        "c": torch.randn(2, 3, 4).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    source = read_safetensors(tmp_path / "m.safetensors")
    assert sorted(source.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        assert source.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(dequantize(source.read(name)), tensor.float().numpy())
        source.release(name)
        np.testing.assert_array_equal(dequantize(source.read(name)), tensor.float().numpy())
    source.close()


def test_reads_data_at_odd_offsets(tmp_path):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "m.safetensors").write_bytes(file_of(b'{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}} ', values.tobytes()))
    raw = read_safetensors(tmp_path / "m.safetensors").read("w")
    np.testing.assert_array_equal(dequantize(raw), values)


def test_other_types_are_listed_and_unknown_ones_refused(tmp_path):
    safetensors.numpy.save_file({"ids": np.arange(4)}, tmp_path / "m.safetensors")
    source = read_safetensors(tmp_path / "m.safetensors")
    assert source.type("ids").name == "i64"
    with pytest.raises(UnsupportedModelError, match=r"'ids'.*i64"):
        dequantize(source.read("ids"))
    (tmp_path / "m.safetensors").write_bytes(file_of({"w": entry([1], 0, 1, "F3")}, b"\0"))
    with pytest.raises(UnsupportedModelError, match=r"'w'.*F3"):
        read_safetensors(tmp_path / "m.safetensors")


BAD = {
    "too short": (b"\1\2\3", "truncated"),
    "header past the end": (struct.pack("<Q", 10**6) + b"{}", "truncated"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "truncated"),
    "not JSON": (file_of(b"{nope"), "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff\xfe": 1}'), "not valid JSON"),
    "too deep": (file_of(b'{"a":' * 100_000), "not valid JSON"),
    "name twice": (file_of(b'{"w":{"a":1},"w":{"a":1}}'), "'w' appears twice"),
    "no offsets": (file_of({"w": {"dtype": "F32", "shape": [1]}}), "'w'"),
    "not an object": (file_of({"w": [1, 2]}), "'w'"),
    "negative size": (file_of({"w": entry([-1], 0, 4)}, bytes(4)), "impossible"),
    "sizes that overflow": (file_of({"w": entry([2**40, 2**40], 0, 4)}, bytes(4)), "impossible"),
    "sizes that are fractions": (file_of({"w": entry([1.0], 0, 4)}, bytes(4)), "impossible"),
    "sizes that are truths": (file_of({"w": entry([True], 0, 4)}, bytes(4)), "impossible"),
    "offsets that contradict the shape": (file_of({"w": entry([2], 0, 4)}, bytes(4)), "contradictory"),
    "offsets in reverse": (file_of({"w": entry([1], 4, 0)}, bytes(4)), "contradictory"),
    "past the end": (file_of({"w": entry([4], 0, 16)}, bytes(8)), "'w' ends at"),
    "overlap": (file_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "overlap"),
    "hole": (file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "do not fill"),
    "data that nobody owns": (file_of({"a": entry([1], 0, 4)}, bytes(8)), "do not fill"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case, tmp_path):
    content, message = BAD[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_an_error(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"a": np.ones((4, 4), np.float32), "b": np.ones(3, np.float16)}, path)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(ModelFileError):
            read_safetensors(path)


@pytest.fixture
def sharded(tmp_path):
    """A folder with two shards, and a function that rewrites its index."""
    safetensors.numpy.save_file({"a": np.ones(4, np.float32)}, tmp_path / "one.safetensors")
    safetensors.numpy.save_file({"b": np.full(4, 2, np.float32), "c": np.zeros(1, np.float32)}, tmp_path / "two.safetensors")

    def index(weight_map: object):
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map}))
        return tmp_path / INDEX

    return index


def test_shards_are_one_source(sharded):
    source = read_sharded_safetensors(sharded({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}))
    assert sorted(source.names()) == ["a", "b", "c"]
    np.testing.assert_array_equal(dequantize(source.read("b")), np.full(4, 2))
    assert (source.shape("c"), source.type("a").name) == ((1,), "f32")
    with pytest.raises(ModelFileError, match="no tensor 'd'"):
        source.read("d")
    source.close()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "three.safetensors"}, r"three\.safetensors is not there"),
        ({"a": "../one.safetensors"}, "outside"),
        ({"a": "/etc/passwd"}, "outside"),
        ({"a": "sub/../../one.safetensors"}, "outside"),
        ({"a": "C:\\one.safetensors"}, "outside"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "'b' is in one"),
        ({"a": 3}, "weight_map"),
        ([], "weight_map"),
        ({}, "weight_map"),
    ],
)
def test_an_index_that_lies_is_named(weight_map, message, sharded):
    with pytest.raises(ModelFileError, match=message):
        read_sharded_safetensors(sharded(weight_map))


def test_a_tensor_in_two_shards_is_an_error(sharded, tmp_path):
    safetensors.numpy.save_file({"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(ModelFileError, match="'a' is in both"):
        read_sharded_safetensors(sharded({"a": "one.safetensors", "b": "two.safetensors"}))
