"""GGUF tensor descriptions that lie about names, shapes, types and places."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_files import Bytes, Tensor, gguf, model_pairs, model_tensors

from linnet.tensors import TYPES

WHOLE = model_tensors(["f32"])
LAST = WHOLE[-1]  # blk.0.ffn_down.weight, [32, 64] as [64, 32] innermost first


def with_last(**changes: object) -> Bytes:
    return gguf(model_pairs(), [*WHOLE[:-1], replace(LAST, **changes)])


def with_extra(tensor: Tensor) -> Bytes:
    return gguf(model_pairs(), [*WHOLE, tensor])


def lengths() -> list[int]:
    """Where each tensor of WHOLE begins, and where the last ends."""
    places = [0]
    for tensor in WHOLE:
        places.append(places[-1] + len(tensor.data or b"") + -len(tensor.data or b"") % 32)
    return places


HERE, END = lengths()[-2:]
F32_DATA = bytes(4 * 64 * 32)
CASES = {
    "no dimensions": (with_last(shape=()), "0 dimensions"),
    "five dimensions": (with_last(shape=(2, 2, 2, 2, 2)), "5 dimensions"),
    "2^32 - 1 dimensions": (gguf(model_pairs(), [Tensor(b"w", (1,))], counts=(1, 23)), "."),
    "a dimension of 0": (with_last(shape=(0, 32)), r"impossible shape \[32, 0\]"),
    "a dimension of 2^64 - 1": (with_last(shape=(2**64 - 1,)), "impossible shape"),
    "a size that overflows 64 bits": (with_last(shape=(2**32, 2**32)), "impossible shape"),
    "a size that overflows to what is there": (with_last(shape=(2**63 + 1024, 2)), "impossible shape"),
    "bytes that overflow": (with_last(shape=(2**62,)), "ends at"),
    "2^31 columns": (with_last(shape=(2**31, 1)), "ends at"),
    "an unknown type": (with_last(type_id=99), "unknown tensor type 99"),
    "a type of 2^32 - 1": (with_last(type_id=2**32 - 1), "unknown tensor type 4294967295"),
    "a type that was taken out": (with_last(type_id=4), "unknown tensor type 4"),
    "a type of more bytes than there are": (with_last(type_id=28), "ends at"),
    "integers": (with_last(type_id=24), r"ffn_down\.weight \(i8\)"),
    "a row that is no whole block": (with_last(shape=(16, 32), type_id=TYPES["q4_0"].gguf_id), "multiple of 32"),
    "columns of a K-quant": (with_last(shape=(64, 32), type_id=TYPES["q4_k"].gguf_id), "multiple of 256"),
    "a quantized norm": (
        gguf(model_pairs(), [replace(t, type_id=8, data=bytes(34)) if t.name == b"output_norm.weight" else t for t in WHOLE]),
        r"output_norm\.weight \(q8_0\)",
    ),
    "past the end": (with_last(offset=END + 2**20), "ends at"),
    "far past the end": (with_last(offset=2**63), "ends at"),
    "an offset that wraps": (with_last(offset=2**64 - 32), "ends at"),
    "an offset between alignments": (with_last(offset=HERE + 4), "multiple of the alignment"),
    "on another tensor": (with_last(offset=HERE - 32), "overlap"),
    "on the first tensor": (with_last(offset=0), "overlap"),
    "a hole before it": (gguf(model_pairs(), [*WHOLE[:-1], replace(LAST, offset=HERE + 64, data=F32_DATA + bytes(64))]), "hole of 64"),
    "a hole before all": (
        gguf(
            model_pairs(),
            [replace(t, offset=place + 32) for t, place in zip(WHOLE, lengths(), strict=False)]
            + [Tensor(b"pad", (8,), offset=END + 32, data=bytes(64))],
        ),
        "hole of 32",
    ),
    "one name twice": (with_extra(Tensor(LAST.name, (8,), data=bytes(32))), "ffn_down.weight' appears twice"),
    "no name": (with_extra(Tensor(b"", (8,), data=bytes(32))), "0 bytes"),
    "a name of 2^63 bytes": (
        Bytes(bytearray(b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 2**63) + bytes(64))),
        "9223372036854775808 bytes",
    ),
    "a name that is no UTF-8": (with_extra(Tensor(b"\xc3\x28", (8,), data=bytes(32))), "not valid UTF-8"),
    "a name that steers terminals": (with_extra(Tensor(b"\x1b]0;x\x07\n", (8,), data=bytes(32))), "unexpected"),
    "a tensor that does not belong": (with_extra(Tensor(b"blk.1.attn_q.weight", (8,), data=bytes(32))), "unexpected: blk.1"),
    "a tensor that is missing": (gguf(model_pairs(), WHOLE[:-1]), "missing: blk.0.ffn_down.weight"),
    "no tensor at all": (gguf(model_pairs(), []), "a vocabulary without tensors"),
    "another shape": (with_last(shape=(32, 64)), r"ffn_down\.weight is \[64, 32\], not \[32, 64\]"),
    "a flat shape": (with_last(shape=(2048,)), r"ffn_down\.weight is \[2048\]"),
    "rotary factors of text": (with_extra(Tensor(b"rope_freqs.weight", (3,), data=bytes(12))), "rope_freqs.weight"),
    "rotary factors of zero": (with_extra(Tensor(b"rope_freqs.weight", (4,), data=bytes(16))), "rope_freqs.weight"),
    "rotary factors without end": (with_extra(Tensor(b"rope_freqs.weight", (2**20,), data=bytes(2**22))), "impossible shape"),
    "200,000 tensors": (gguf(model_pairs(), [Tensor(b"%d" % i, (1,), offset=32 * i) for i in range(200_000)]), "200000 tensors"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case, refused, tmp_path):
    built, pattern = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(built.data)
    refused(path, pattern)


def test_split_parts_that_do_not_belong_together(refused, tmp_path):
    """The name says two parts; the content says one, 65,535, or another number."""
    for number, count, pattern in ((0, 65535, "65535"), (1, 2, "part 2 of 2"), (7, 2, "part 8 of 2"), (0, 2, "-00002-of-00002.gguf")):
        pairs = [*model_pairs(), (b"split.no", 2, number), (b"split.count", 2, count)]
        path: Path = tmp_path / "model-00001-of-00002.gguf"
        path.write_bytes(gguf(pairs, WHOLE).data)
        refused(path, pattern)
