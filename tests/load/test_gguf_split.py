"""Split GGUF models against the `gguf` package's own splitting, and against parts that lie."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from test_gguf_reader import STRING, U8, U32, build, info, pair, text

from linnet.errors import ModelFileError
from linnet.load.gguf import is_later_part, read_gguf

U16 = 2


def number(key: bytes, value: int) -> bytes:
    return pair(key, U16, value.to_bytes(2, "little"))


def part(index: int, count: int, tensors: bytes = b"", total: int | None = None, first: list[bytes] = ()) -> bytes:
    """A part whose tensors have names of one letter each."""
    pairs = [*first, number(b"split.no", index), number(b"split.count", count)]
    if total is not None:
        pairs.append(number(b"split.tensors.count", total))
    infos = [info(bytes([letter]), offset=32 * i) for i, letter in enumerate(tensors)]
    return build(pairs, infos, b"".join(np.full(8, letter, np.float32).tobytes() for letter in tensors))


def write_parts(folder: Path, contents: list[bytes]) -> list[Path]:
    paths = [folder / f"model-{i + 1:05}-of-{len(contents):05}.gguf" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("given", [0, 1, 3])
def test_what_the_gguf_package_splits_is_one_source(given, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=2)
    writer.add_string("a.text", "of the first part")
    tensors = {f"t{i}": np.random.default_rng(i).normal(size=(3, 32)).astype(np.float32) for i in range(7)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("*.gguf"))
    assert len(paths) == 4
    file = read_gguf(paths[given])
    assert file.metadata["a.text"] == "of the first part"
    assert file.where == str(paths[0])
    assert file.names() == list(tensors)
    for name, values in tensors.items():
        raw = file.read(name)
        assert (file.shape(name), file.type(name).name) == ((3, 32), "f32")
        np.testing.assert_array_equal(raw.data.view(np.float32).reshape(3, 32), values)
        file.release(name)
    file.close()
    assert [is_later_part(path) for path in paths] == [False, True, True, True]


def test_parts_may_be_links_as_in_the_cache_of_the_hub(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for index, path in enumerate(write_parts(tmp_path, [part(0, 2, b"a", 2), part(1, 2, b"b")])):
        os.rename(path, tmp_path / "blobs" / str(index))
        (tmp_path / "snapshot" / path.name).symlink_to(Path("..") / "blobs" / str(index))
    assert read_gguf(tmp_path / "snapshot" / "model-00002-of-00002.gguf").names() == ["a", "b"]


def test_one_part_of_one_needs_no_name(tmp_path):
    (tmp_path / "whatever").write_bytes(part(0, 1, b"a", 1))
    assert read_gguf(tmp_path / "whatever").names() == ["a"]


def test_missing_parts_are_each_named(tmp_path):
    paths = write_parts(tmp_path, [part(i, 4, bytes([97 + i])) for i in range(4)])
    paths[1].unlink()
    paths[3].unlink()
    for path in (paths[0], paths[2]):
        with pytest.raises(ModelFileError, match=r"2 of the model's 4 parts .*: model-00002-of-00004\.gguf, model-00004-of-00004\.gguf;"):
            read_gguf(path)


def test_a_renamed_part_is_told_its_name(tmp_path):
    for name in ("ab12", "../model-00001-of-00002.gguf", "model-00001-of-00003.gguf", "model-00002-of-00002.gguf"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part(0, 2, b"a"))
        message = r"must end in -00001-of-00002\.gguf" if "../" not in name else r"model-00002-of-00002\.gguf"
        with pytest.raises(ModelFileError, match=message):
            read_gguf(path)


LIES = {
    "a tensor in two parts": ([part(0, 2, b"a"), part(1, 2, b"a")], r"'a' is in both .*00001-of.* and .*00002-of"),
    "another count": ([part(0, 2, b"a"), part(1, 3, b"b")], r"00002-of-00002\.gguf: says that it is part 2 of 3, not 2 of 2"),
    "another number": ([part(0, 2, b"a"), part(0, 2, b"b")], r"00002-of-00002\.gguf: says that it is part 1 of 2, not 2 of 2"),
    "no number in a part": ([part(0, 2, b"a"), build(infos=[info()], data=bytes(32))], r"00002-of-00002\.gguf: split\.no is None"),
    "fewer tensors": ([part(0, 2, b"a", 3), part(1, 2, b"b")], "says that the model has 3 tensors, but its parts hold 2"),
    "a part that is no GGUF": ([part(0, 2, b"a"), b"nonsense" * 8], r"00002-of-00002\.gguf: not a GGUF file"),
    "an empty part": ([part(0, 2, b"a"), b""], r"00002-of-00002\.gguf: the file is empty"),
    "no number": ([build([number(b"split.count", 2)]), b""], r"split\.no is None"),
    "count a text": ([build([pair(b"split.count", STRING, text(b"2"))]), b""], r"split\.count is 2; a whole number"),
    "count an array": ([build([pair(b"split.count", 9, bytes([U8, 0, 0, 0, 1]) + bytes(7) + b"\2")]), b""], r"split\.count is \[2\]"),
    "2^32 - 1 parts": ([build([number(b"split.no", 0), pair(b"split.count", U32, b"\xff" * 4)]), b""], "must end in -00001-of-4294967295"),
}


@pytest.mark.parametrize("case", LIES)
def test_parts_that_lie_are_named(case, tmp_path):
    contents, message = LIES[case]
    with pytest.raises(ModelFileError, match=message):
        read_gguf(write_parts(tmp_path, contents)[0])
