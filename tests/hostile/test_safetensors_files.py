"""safetensors files and indexes that lie about lengths, types, places and homes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile_files import hf_tensors, raw_safetensors, safetensors, write_folder

NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}).encode()


def two(first: tuple[int, int], second: tuple[int, int]) -> bytes:
    return json.dumps(
        {name: {"dtype": "U8", "shape": [e - b], "data_offsets": [b, e]} for name, (b, e) in (("a", first), ("b", second))}
    ).encode()


FILES = {
    "nothing": (b"", "empty"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", "not a safetensors file"),
    "a header longer than the file": (raw_safetensors(b"{}", length=3), "truncated in its header"),
    "a header of 2^63 bytes": (raw_safetensors(b"{}", length=2**63), "truncated in its header"),
    "a header of 2^64 - 1 bytes": (raw_safetensors(b"{}", length=2**64 - 1), "truncated in its header"),
    "a header of no bytes": (raw_safetensors(b"", b"{}"), "JSON|not a safetensors"),
    "a header that is a list": (raw_safetensors(b"[]"), "not a safetensors file"),
    "a header that is no JSON": (raw_safetensors(b"{]"), "not valid JSON"),
    "a header that is no UTF-8": (raw_safetensors(b'{"\xff": 1}'), "not valid JSON"),
    "a header 100,000 deep": (raw_safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "not valid JSON"),
    "a header 900 deep": (raw_safetensors(b'{"a":' * 900 + b"1" + b"}" * 900), "deeper than 100"),
    "a shape 100,000 deep": (raw_safetensors(entry(shape=[]).replace(b"[]", b"[" * 100_000 + b"]" * 100_000)), "not valid JSON"),
    "30 MB of brackets": (raw_safetensors(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}"), "JSON of up to"),
    "5 million names": (raw_safetensors(b'{"a":0' + b',"a":0' * 5_000_000 + b"}"), "JSON of up to"),
    "a number of a million digits": (raw_safetensors(b'{"w":' + b"9" * 1_000_000 + b"}"), "not valid JSON|expected"),
    "a name twice": (raw_safetensors(b'{"w": {}, "w": {}}'), "'w' appears twice"),
    "an entry that is no object": (raw_safetensors(b'{"w": 7}'), "dtype, shape and data_offsets"),
    "an entry without its type": (raw_safetensors(b'{"w": {"shape": [], "data_offsets": [0, 0]}}'), "dtype, shape and data_offsets"),
    "an unknown type": (raw_safetensors(entry("Q4_0")), "unknown dtype 'Q4_0'"),
    "a type that is a list": (raw_safetensors(entry(["F32"])), "unknown dtype"),
    "a type of another size": (raw_safetensors(entry("F16"), bytes(8)), "contradictory offsets"),
    "a shape of -1": (raw_safetensors(entry(shape=[-1, -2])), "impossible shape"),
    "a shape that overflows": (raw_safetensors(entry(shape=[2**32, 2**32])), "impossible shape"),
    "a shape of fractions": (raw_safetensors(entry(shape=[2.0])), "impossible shape"),
    "a shape of truths": (raw_safetensors(entry(shape=[True, 2])), "impossible shape"),
    "a shape of text": (raw_safetensors(entry(shape="2")), "impossible shape"),
    "a shape of nine dimensions": (raw_safetensors(entry(shape=[1] * 9)), "impossible shape"),
    "a shape of infinity": (raw_safetensors(entry(shape=[float("inf")])), "impossible shape"),
    "offsets the wrong way": (raw_safetensors(entry(offsets=[8, 0]), bytes(8)), "contradictory offsets"),
    "one offset": (raw_safetensors(entry(offsets=[8]), bytes(8)), "contradictory offsets"),
    "offsets below zero": (raw_safetensors(entry(offsets=[-8, 0]), bytes(8)), "impossible shape or offsets"),
    "offsets past the end": (raw_safetensors(entry(offsets=[8, 16]), bytes(8)), "ends at"),
    "offsets far past the end": (raw_safetensors(entry(offsets=[2**62, 2**62 + 8]), bytes(8)), "impossible|ends at"),
    "overlap": (raw_safetensors(two((0, 6), (4, 8)), bytes(8)), "overlap"),
    "the same bytes twice": (raw_safetensors(two((0, 8), (0, 8)), bytes(8)), "overlap"),
    "a hole": (raw_safetensors(two((0, 4), (6, 8)), bytes(8)), "do not fill"),
    "bytes after the last": (raw_safetensors(two((0, 4), (4, 8)), bytes(9)), "do not fill"),
    "no tensors": (raw_safetensors(b"{}"), "missing"),
}


@pytest.mark.parametrize("case", FILES)
def test_refused(case, refused, tmp_path):
    content, pattern = FILES[case]
    folder = write_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, pattern, names="model.safetensors")


def test_a_sparse_header_of_a_gigabyte(refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(raw_safetensors(b"{", length=2**30))
        file.truncate(2**30 + 8)
    refused(folder, "not a safetensors file", names="model.safetensors")


LIES = {
    "a type that it is not": ("F16", (64,), bytes(128), r"model\.norm\.weight is \[64\], not \[32\]"),
    "integers": ("I32", (32,), bytes(128), r"model\.norm\.weight \(i32\)"),
    "eight bits": ("F8_E4M3", (32,), bytes(32), r"model\.norm\.weight \(f8_e4m3\)"),
    "no dimensions": ("F32", (), bytes(4), r"model\.norm\.weight is \[\]"),
    "one dimension more": ("F32", (1, 32), bytes(128), r"is \[1, 32\], not \[32\]"),
    "nothing in it": ("F32", (0,), b"", r"is \[0\], not \[32\]"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_tensor_that_is_not_what_the_model_needs(case, refused, tmp_path):
    dtype, shape, data, pattern = LIES[case]
    folder = write_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(safetensors({**hf_tensors(), NORM: (dtype, shape, data)}))
    refused(folder, pattern, names="model.safetensors")


def test_names_that_steer_terminals_come_out_harmless(refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    extra = {f"\x1b[2J\n\u202e{'x' * 5000}{i}": ("F32", (1,), bytes(4)) for i in range(300)}
    (folder / "model.safetensors").write_bytes(safetensors({**hf_tensors(), **extra}))
    refused(folder, "unexpected", names="model.safetensors")


def set_home(folder: Path, name: str, home: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = home
    (folder / INDEX).write_text(json.dumps(index))


HOMES = {
    "the parent folder": ("../model.safetensors", "outside the model's folder"),
    "the parent folder by a detour": ("a/../../model.safetensors", "outside the model's folder"),
    "an absolute path": ("/etc/passwd", "outside the model's folder"),
    "a Windows path": ("..\\model.safetensors", "outside the model's folder"),
    "a drive": ("C:model.safetensors", "outside the model's folder"),
    "a stream of a file": ("a.safetensors:b", "outside the model's folder"),
    "a name with a zero": ("a\0.safetensors", "outside the model's folder"),
    "no name": ("", "outside the model's folder"),
    "the folder itself": (".", "outside the model's folder"),
    "a name of 100 KB": ("x" * 100_000, "outside the model's folder"),
    "the index itself": (INDEX, "not a safetensors file"),
    "another file": ("config.json", "not a safetensors file"),
    "a file that is not there": ("absent.safetensors", "is not there"),
    "a number": (7, "weight_map"),
    "nothing": (None, "weight_map"),
    "a name that is no Unicode": ("\ud800.safetensors", "a lone surrogate"),
}


@pytest.mark.parametrize("case", HOMES)
def test_a_home_that_is_none(case, refused, tmp_path):
    home, pattern = HOMES[case]
    folder = write_folder(tmp_path / "model", shards=2)
    set_home(folder, NORM, home)
    refused(folder, pattern)


def test_indexes_and_shards_that_disagree(refused, tmp_path):
    folder = write_folder(tmp_path / "model", shards=2)
    set_home(folder, "no.such.tensor", "model-00001-of-00002.safetensors")
    refused(folder, "'no.such.tensor' is in .* but it is not")
    folder = write_folder(tmp_path / "twice", shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    refused(folder, "is in both")
    for index in ("[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 7}', '{"weight_map": {"a": {}}}'):
        (folder / INDEX).write_text(index)
        refused(folder, "weight_map|JSON object was expected")
