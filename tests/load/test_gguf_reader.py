"""The GGUF reader against the `gguf` package's writer and reader, and against files that lie."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.gguf import read_gguf
from linnet.tensors import TYPES

VOCABULARIES = Path(__file__).parents[3] / "shared" / "data" / "vocab"
U8, I32, F32, BOOL, STRING, ARRAY, U64, U32 = 0, 5, 6, 7, 8, 9, 10, 4


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, type_id: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + value


def info(name: bytes = b"w", shape: tuple[int, ...] = (8,), type_id: int = 0, offset: int = 0) -> bytes:
    """A tensor's description; `shape` is innermost first, as files have it."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


def build(
    pairs: list[bytes] = (), infos: list[bytes] = (), data: bytes = b"", version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    tensor_count, pair_count = counts or (len(infos), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


@pytest.fixture
def write(tmp_path):
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


def sample(path: Path) -> dict[str, tuple[np.ndarray, str]]:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -5)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "naïve 日本語 \x00 end")
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, 1.5])
    writer.add_array("a.bools", [True, False])
    writer.add_array("a.texts", ["", "a", "Ġé", "🙂"])
    tensors = {}
    for name in TYPES:
        shape = (3, 2, 512)
        data = rng.integers(0, 256, TYPES[name].nbytes(shape), np.uint8)
        tensors[name + ".weight"] = (data, name)
        writer.add_tensor(name + ".weight", data.reshape(3, 2, -1), raw_dtype=gguf.GGMLQuantizationType[name.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_reads_what_the_gguf_package_writes(tmp_path):
    path = tmp_path / "sample.gguf"
    tensors = sample(path)
    file = read_gguf(path)
    expected = gguf.GGUFReader(path)
    for key, field in expected.fields.items():
        if key.startswith("GGUF."):
            continue
        value = file.metadata[key]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), key
    assert file.metadata["a.u64"] == 2**64 - 1
    assert file.metadata["a.bool"] is True
    assert file.names() == list(tensors)
    for name, (data, type_name) in tensors.items():
        raw = file.read(name)
        assert (raw.name, raw.shape, raw.type, file.type(name)) == (name, (3, 2, 512), TYPES[type_name], TYPES[type_name])
        np.testing.assert_array_equal(raw.data, data)
        assert not raw.data.flags.owndata  # a view of the mapping
    with pytest.raises(ModelFileError, match="no tensor 'nothing'"):
        file.read("nothing")


def test_released_tensors_stay_readable_and_close_waits_for_views(tmp_path):
    path = tmp_path / "sample.gguf"
    tensors = sample(path)
    file = read_gguf(path)
    for name in file.names():
        file.release(name)
    views = {name: file.read(name).data for name in file.names()}
    file.close()
    for name, (data, _) in tensors.items():
        np.testing.assert_array_equal(views[name], data)


@pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="../shared/data/vocab is not there")
def test_reads_a_published_vocabulary_like_gguf():
    path = VOCABULARIES / "ggml-vocab-llama-spm.gguf"
    file = read_gguf(path)
    fields = gguf.GGUFReader(path).fields
    assert file.metadata["tokenizer.ggml.tokens"] == fields["tokenizer.ggml.tokens"].contents()
    np.testing.assert_array_equal(file.metadata["tokenizer.ggml.scores"], np.array(fields["tokenizer.ggml.scores"].contents(), np.float32))
    assert len(file.metadata) == len([key for key in fields if not key.startswith("GGUF.")])
    assert file.names() == []


def test_bytes_that_are_not_utf8_survive(write):
    tokens = [b"\xff\xfe", b"ok", b"\xc3"]
    array = struct.pack("<IQ", STRING, 3) + b"".join(map(text, tokens))
    found = read_gguf(write(build([pair(b"t", ARRAY, array)]))).metadata["t"]
    assert [token.encode("utf-8", "surrogateescape") for token in found] == tokens
    assert len(set(found)) == 3


def test_alignment_moves_the_data(write):
    pairs = [pair(b"general.alignment", U32, struct.pack("<I", 128))]
    head = build(pairs, [info()])
    content = head + bytes(-len(head) % 128) + np.arange(8, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(read_gguf(write(content)).read("w").data.view(np.float32), np.arange(8))


def test_version_2_is_laid_out_as_version_3(write):
    data = np.arange(8, dtype=np.float32)
    file = read_gguf(write(build([pair(b"k", STRING, text(b"v"))], [info()], data.tobytes(), version=2)))
    assert file.metadata == {"k": "v"}
    np.testing.assert_array_equal(file.read("w").data.view(np.float32), data)


def test_every_type_of_the_format_is_listed_with_its_bounds(write):
    for quant, (block, size) in gguf.GGML_QUANT_SIZES.items():
        file = read_gguf(write(build(infos=[info(shape=(block, 2), type_id=quant)], data=bytes(2 * size))))
        assert (file.type("w").name, file.read("w").data.size) == (quant.name.lower(), 2 * size)


STRINGS = struct.pack("<I", STRING)
BAD = {
    "not GGUF": (b"GGML" + bytes(60), "not a GGUF file"),
    "too short": (b"GGUF\x03\0\0", "truncated"),
    "tensor count": (build(counts=(2**60, 0)), "tensors"),
    "key count": (build(counts=(0, 2**60)), "metadata keys"),
    "text of 2^63 bytes": (build([pair(b"k", STRING, struct.pack("<Q", 2**63))]), "'k'"),
    "text past the end": (build([pair(b"k", STRING, struct.pack("<Q", 1000) + b"abc")]), "'k'"),
    "key of 2^64-1 bytes": (build([struct.pack("<Q", 2**64 - 1)], counts=(0, 1)) + bytes(64), "metadata key 0"),
    "empty key": (build([pair(b"", BOOL, b"\1")]), "metadata key 0"),
    "key that is not UTF-8": (build([pair(b"\xff\xff", BOOL, b"\1")]), "UTF-8"),
    "array of 2^61 texts": (build([pair(b"k", ARRAY, STRINGS + struct.pack("<Q", 2**61))]), "strings of metadata key 'k'"),
    "array of 2^62 numbers": (build([pair(b"k", ARRAY, struct.pack("<IQ", U64, 2**62))]), "values of metadata key 'k'"),
    "array of unknown type": (build([pair(b"k", ARRAY, struct.pack("<IQ", 77, 1)) + bytes(8)]), "unknown value type 77"),
    "value of unknown type": (build([pair(b"k", 13, bytes(8))]), "unknown value type 13"),
    "array of arrays": (build([pair(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(24))]), "array of arrays"),
    "truth value 2": (build([pair(b"k", BOOL, b"\2")]) + bytes(32), "truth value"),
    "key twice": (build([pair(b"k", BOOL, b"\1")] * 2), "'k' appears twice"),
    "text past the end, in an array": (build([pair(b"k", ARRAY, STRINGS + struct.pack("<QQ", 1, 500))]), "'k'"),
    "no dimensions": (build(infos=[info(shape=())], data=bytes(64)), "0 dimensions"),
    "2^31 dimensions": (build(infos=[text(b"w") + struct.pack("<I", 2**31) + bytes(64)]), "2147483648 dimensions"),
    "size 0": (build(infos=[info(shape=(8, 0))], data=bytes(64)), "impossible shape"),
    "sizes that overflow": (build(infos=[info(shape=(2**32, 2**32, 2**32))], data=bytes(64)), "impossible shape"),
    "sizes that overflow to little": (build(infos=[info(shape=(2**62, 4))], data=bytes(64)), "impossible shape"),
    "rows that blocks do not divide": (build(infos=[info(shape=(40,), type_id=8)], data=bytes(64)), "multiple of 32"),
    "unknown tensor type": (build(infos=[info(type_id=999)], data=bytes(64)), "unknown tensor type 999"),
    "data past the end": (build(infos=[info(shape=(64,))], data=bytes(64)), "'w' ends at"),
    "offset past the end": (build(infos=[info(offset=2**62)], data=bytes(64)), "'w' ends at"),
    "offset that wraps": (build(infos=[info(offset=2**64 - 32)], data=bytes(64)), "'w' ends at"),
    "offset not aligned": (build(infos=[info(offset=4)], data=bytes(64)), "alignment"),
    "overlap": (build(infos=[info(b"a", (16,)), info(b"b", (8,), offset=32)], data=bytes(64)), "'a' and 'b' overlap"),
    "tensor twice": (build(infos=[info(), info(offset=32)], data=bytes(64)), "'w' appears twice"),
    "alignment 0": (build([pair(b"general.alignment", U32, bytes(4))], [info()], bytes(64)), "general.alignment"),
    "alignment 24": (build([pair(b"general.alignment", U32, struct.pack("<I", 24))], [info()], bytes(64)), "general.alignment"),
    "alignment a text": (build([pair(b"general.alignment", STRING, text(b"x" * 32))], [info()], bytes(64)), "general.alignment"),
}
UNSUPPORTED = {
    "version 1": (build(version=1), "version 1;"),
    "version 99": (build(version=99), "version 99"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(40), "big-endian"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_without_allocating(case, write):
    content, message = BAD[case]
    path = write(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message) as caught:
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_built_is_named(case, write):
    content, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedModelError, match=message):
        read_gguf(write(content))


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.gguf: no such file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_gguf(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFileError, match="empty"):
        read_gguf(tmp_path / "empty.gguf")


def test_every_truncation_is_an_error(tmp_path):
    path = tmp_path / "sample.gguf"
    sample(path)
    content = path.read_bytes()
    header = content.index(b"q6_k.weight")
    for end in [*range(1, header, 7), *range(header, len(content) - 32, 997)]:
        path.write_bytes(content[:end])
        with pytest.raises(ModelFileError):
            read_gguf(path)


def test_damaged_bytes_never_escape_the_file(tmp_path):
    """Whatever one to four bytes of the header become: an error of ours, or tensors that lie inside the file."""
    path = tmp_path / "sample.gguf"
    sample(path)
    content = path.read_bytes()
    header = content.index(b"q6_k.weight") + 60
    rng = np.random.default_rng(3)
    opened = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for position in rng.integers(0, header, rng.integers(1, 5)):
            damaged[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        path.write_bytes(damaged)
        try:
            file = read_gguf(path)
        except ModelFileError:
            continue
        opened += 1
        for name in file.names():
            assert file.read(name).data.size == file.type(name).nbytes(file.shape(name))
        file.close()
    assert 0 < opened < 1500
