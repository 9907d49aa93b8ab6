"""GGUF files, version 3, little-endian: metadata, then tensors as they come. The inverse of `linnet.load.gguf_reader`.

Follows https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any, BinaryIO

import numpy as np

from linnet.tensors import TensorType

ALIGNMENT = 32
MAGIC = b"GGUF"

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64 = 4, 5, 6, 7, 8, 9, 10, 11
_ARRAY_TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": _BOOL, "u8": 10, "i8": 11, "f8": 12}


@dataclass(frozen=True)
class Encoded:
    """A value of metadata in the bytes of another file: its type's number and what follows."""

    data: bytes


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: its `shape` outermost first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(self.shape)

    @property
    def padding(self) -> int:
        """Bytes after it, up to where the next may begin."""
        return -self.nbytes % ALIGNMENT


class GgufWriter:
    """A file that is being written: its tensors follow in the order of `entries`, whole, in pieces of any size.

    The first four bytes are zeros until `finish`, so that nobody takes a part of a file for all of it.
    """

    def __init__(self, file: BinaryIO, metadata: Mapping[str, Any], entries: Sequence[Entry]) -> None:
        self.file = file
        header = _header(metadata, entries)
        self.nbytes = len(header) + _data_bytes(entries)
        file.write(bytes(len(MAGIC)) + header[len(MAGIC) :])

    def write(self, data: Any) -> None:
        self.file.write(data)

    def end_tensor(self, entry: Entry) -> None:
        self.file.write(bytes(entry.padding))

    def finish(self) -> None:
        """Makes the file one that readers take."""
        assert self.file.tell() == self.nbytes
        self.file.seek(0)
        self.file.write(MAGIC)


def file_bytes(metadata: Mapping[str, Any], entries: Sequence[Entry]) -> int:
    """The size of the whole file."""
    return len(_header(metadata, entries)) + _data_bytes(entries)


def _data_bytes(entries: Iterable[Entry]) -> int:
    return sum(entry.nbytes + entry.padding for entry in entries)


def _header(metadata: Mapping[str, Any], entries: Iterable[Entry]) -> bytes:
    """All before the first tensor's data, padding included."""
    entries = list(entries)
    parts = [MAGIC, pack("<IQQ", 3, len(entries), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), value.data if isinstance(value, Encoded) else _value(value)]
    offset = 0
    for entry in entries:
        parts += [_string(entry.name), pack("<I", len(entry.shape))]
        parts += [pack("<Q", size) for size in reversed(entry.shape)]
        parts.append(pack("<IQ", entry.type.gguf_id, offset))
        offset += entry.nbytes + entry.padding
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def _string(text: str) -> bytes:
    """Lone surrogates stand for bytes that are no UTF-8, as the reader gives them."""
    data = text.encode("utf-8", "surrogateescape")
    return pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """The type's number and the value. Integers are uint32, which readers expect, wherever they fit."""
    if isinstance(value, (bool, np.bool_)):
        return pack("<IB", _BOOL, bool(value))
    if isinstance(value, int):
        if value < 0:
            return pack("<Ii", _INT32, value) if value >= -(2**31) else pack("<Iq", _INT64, value)
        return pack("<II", _UINT32, value) if value < 2**32 else pack("<IQ", _UINT64, value)
    if isinstance(value, float):
        return pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        kind = _ARRAY_TYPES[f"{value.dtype.kind}{value.dtype.itemsize}"]
        return pack("<IIQ", _ARRAY, kind, value.size) + np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
    assert isinstance(value, list), type(value)
    return pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
