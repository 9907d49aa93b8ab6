"""GGUF metadata that lies about counts, lengths, types and its own layout."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hostile_files import ARRAY, BOOL, F32, F64, I32, STRING, U8, U32, U64, Bytes, gguf, model_gguf, model_pairs, model_tensors

TENSORS = model_tensors(["f32"])


def changed(key: bytes, kind: int, value: object) -> Bytes:
    """The whole model, with one key changed or added."""
    pairs = [pair for pair in model_pairs() if pair[0] != key]
    return gguf([*pairs, (key, kind, value)], TENSORS)


def with_raw(key: bytes, rest: bytes) -> Bytes:
    """A last key whose type and value are these bytes."""
    out = Bytes(bytearray(b"GGUF" + struct.pack("<IQQ", 3, 0, 1)))
    out.text(key)
    out.data += rest
    return out


def text_of(length: int, body: bytes = b"abc") -> bytes:
    return struct.pack("<IQ", STRING, length) + body


def many_keys(count: int) -> Bytes:
    """Put together without `gguf`, which notes where each number is: seconds, for a million."""
    keys = (f"k{i:x}".encode() for i in range(count))
    pairs = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<IB", U8, 0) for key in keys)
    return Bytes(bytearray(struct.pack("<4sIQQ", b"GGUF", 3, 0, count) + pairs))


NAME_64K = b"x" * 65535
CASES = {
    "another magic": (gguf(model_pairs(), TENSORS, magic=b"GGML"), "not a GGUF file"),
    "nothing but the magic": (Bytes(bytearray(b"GGUF")), "truncated"),
    "version 0": (gguf(model_pairs(), TENSORS, version=0), "big-endian"),
    "version 1": (gguf(model_pairs(), TENSORS, version=1), "version 1"),
    "version 4": (gguf(model_pairs(), TENSORS, version=4), "version 4"),
    "big-endian": (gguf(model_pairs(), TENSORS, version=3 << 24), "big-endian"),
    "2^40 tensors": (gguf(model_pairs(), TENSORS, counts=(2**40, 1)), "1099511627776 tensors"),
    "2^64 - 1 tensors": (gguf(model_pairs(), TENSORS, counts=(2**64 - 1, 1)), "18446744073709551615 tensors"),
    "2^40 keys": (gguf(model_pairs(), TENSORS, counts=(1, 2**40)), "1099511627776 metadata keys"),
    "2^64 - 1 keys": (gguf(model_pairs(), TENSORS, counts=(1, 2**64 - 1)), "18446744073709551615 metadata keys"),
    "one key too many": (gguf(model_pairs(), [], counts=(0, len(model_pairs()) + 1)), "takes|bytes"),
    "a million keys": (many_keys(1_000_000), "1000000 keys"),
    "a key of length 0": (with_raw(b"", struct.pack("<IB", U8, 0)), "0 bytes"),
    "a key of 2^63 bytes": (Bytes(bytearray(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + bytes(99))), "9223372036854775808 bytes"),
    "a key that is no UTF-8": (with_raw(b"\xff\xfe", struct.pack("<IB", U8, 0)), "not valid UTF-8"),
    "a key twice": (gguf([*model_pairs(), (b"llama.block_count", U32, 1)], TENSORS), "'llama.block_count' appears twice"),
    "a text of 2^63 bytes": (with_raw(b"k", text_of(2**63)), "'k' ends past"),
    "a text of 2^64 - 1 bytes": (with_raw(b"k", text_of(2**64 - 1)), "'k' ends past"),
    "a text one byte too long": (with_raw(b"k", text_of(4)), "'k' ends past"),
    "an unknown value type": (with_raw(b"k", struct.pack("<IQ", 13, 0)), "unknown value type 13"),
    "a value type of 2^32 - 1": (with_raw(b"k", struct.pack("<IQ", 2**32 - 1, 0)), "unknown value type"),
    "a truth of 2": (with_raw(b"k", struct.pack("<IB", BOOL, 2)), "truth value"),
    "an array of arrays": (with_raw(b"k", struct.pack("<IIQIQ", ARRAY, ARRAY, 1, U8, 0)), "array of arrays"),
    "an array of an unknown type": (with_raw(b"k", struct.pack("<IIQ", ARRAY, 99, 1)), "unknown value type 99"),
    "an array of 2^61 numbers": (with_raw(b"k", struct.pack("<IIQ", ARRAY, U64, 2**61)), "2305843009213693952 values"),
    "an array whose size overflows": (with_raw(b"k", struct.pack("<IIQ", ARRAY, F64, 2**63)), "past"),
    "an array of 2^60 texts": (with_raw(b"k", struct.pack("<IIQ", ARRAY, STRING, 2**60)), "1152921504606846976 strings"),
    "3 million empty texts": (
        with_raw(b"k", struct.pack("<IIQ", ARRAY, STRING, 3_000_000) + bytes(24_000_000)),
        "more than 2097152 strings",
    ),
    "alignment 0": (changed(b"general.alignment", U32, 0), "alignment is 0"),
    "alignment 3": (changed(b"general.alignment", U32, 3), "alignment is 3"),
    "alignment 2^63": (changed(b"general.alignment", U64, 2**63), "alignment|hole|ends at|multiple"),
    "alignment -32": (changed(b"general.alignment", I32, -32), "alignment is -32"),
    "alignment 32.0": (changed(b"general.alignment", F32, 32.0), r"alignment is 32\.0"),
    "an alignment in words": (changed(b"general.alignment", STRING, b"thirty-two"), "alignment is thirty-two"),
    "no architecture": (
        gguf([pair for pair in model_pairs() if b"architecture" not in pair[0]], TENSORS),
        r"general\.architecture is missing",
    ),
    "an architecture that is a number": (changed(b"general.architecture", U32, 3), r"general\.architecture"),
    "an architecture of a megabyte": (changed(b"general.architecture", STRING, b"x" * 2**20), "architecture"),
    "an architecture that steers terminals": (changed(b"general.architecture", STRING, b"\x1b[2J\n\r"), "architecture"),
    "2^31 layers": (changed(b"llama.block_count", U32, 2**31), "block_count is '2147483648'"),
    "a billion layers": (changed(b"llama.block_count", U32, 10**9), "block_count is '1000000000'"),
    "no heads": (changed(b"llama.attention.head_count", U32, 0), "head_count is '0'"),
    "more KV heads than divide": (changed(b"llama.attention.head_count_kv", U32, 3), "head_count_kv is '3'"),
    "heads in a list": (changed(b"llama.attention.head_count", ARRAY, (U32, [4])), "head_count"),
    "an epsilon of NaN": (changed(b"llama.attention.layer_norm_rms_epsilon", F32, float("nan")), "layer_norm_rms_epsilon is 'nan'"),
    "an infinite rotary base": (changed(b"llama.rope.freq_base", F32, float("inf")), "freq_base is 'inf'"),
    "an odd rotary dimension": (changed(b"llama.rope.dimension_count", U32, 7), "dimension_count is '7'"),
    "a key with a name of 64 KiB": (gguf([*model_pairs(), (b"llama." + NAME_64K[:65000], U32, 7)], TENSORS), "not understood"),
    "a key that nobody knows": (changed(b"llama.time_mix_extra_dim", U32, 8), r"llama\.time_mix_extra_dim = 8"),
}


def test_the_model_that_is_changed_runs(accepted, tmp_path):
    (tmp_path / "model.gguf").write_bytes(model_gguf(["f32"]).data)
    accepted(tmp_path / "model.gguf")


@pytest.mark.parametrize("case", CASES)
def test_refused(case, refused, tmp_path):
    built, pattern = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(built.data)
    refused(path, pattern)


def test_a_header_of_a_gigabyte(refused, tmp_path):
    """A sparse file: a text, or an array, that runs through its zeros."""
    for rest in (text_of(2**30, b""), struct.pack("<IIQ", ARRAY, U8, 2**30), struct.pack("<IIQ", ARRAY, STRING, 2**24)):
        path = sparse(tmp_path / "model.gguf", bytes(with_raw(b"k", rest).data), 2**30 + 200)
        refused(path, "'k'.*(134217728 bytes that metadata|more than 2097152 strings|past)")


def sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def test_truncated_anywhere(refused, tmp_path):
    whole = bytes(model_gguf(["f32"]).data)
    path = tmp_path / "model.gguf"
    for place in [1, 3, 4, 7, 8, 15, 16, 23, 24, 25, 31, 40, 100, 500, 1000, 3000, 5000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:place])
        refused(path, "truncated|download it again|not a GGUF file|not a kind")
