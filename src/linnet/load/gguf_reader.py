"""One GGUF file, version 2 or 3, little-endian: metadata and tensors, every length checked against the file.

Follows https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.files import MappedFile
from linnet.load.source import MappedTensors, TensorEntry
from linnet.tensors import BY_GGUF_ID, TensorType

VERSIONS = (2, 3)
"""Laid out alike: version 3 only added big-endian files. Version 1 had lengths of 32 bits."""
MAX_KEY_BYTES = 65535
MAX_DIMENSIONS = 4
# No model comes near these; they bound what a file can make its reader take, in memory and time.
MAX_HEADER_BYTES = 128 * 2**20
MAX_KEYS = 2**16
MAX_STRINGS = 2**21
MAX_TENSORS = 2**17
LARGEST = 2**63 - 1

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    id: Struct("<" + code)
    for id, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}.items()
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# Types that GGUF defines and no kernel reads (name, id, values and bytes of a block): their tensors are listed and bounded
# like any other; `convert.py` knows which can be run all the same.
_OTHER_TYPES = """
q8_1 9 32 40, q8_k 15 256 292, iq2_xxs 16 256 66, iq2_xs 17 256 74, iq3_xxs 18 256 98, iq1_s 19 256 50, iq3_s 21 256 110,
iq2_s 22 256 82, i8 24 1 1, i16 25 1 2, i32 26 1 4, i64 27 1 8, f64 28 1 8, iq1_m 29 256 56, tq1_0 34 256 54, tq2_0 35 256 66,
nvfp4 40 64 36, q1_0 41 128 18
"""


def _other_types() -> dict[int, TensorType]:
    fields = (entry.split() for entry in _OTHER_TYPES.split(","))
    return {int(id): TensorType(name, int(id), int(block), int(size)) for name, id, block, size in fields}


_TYPES = {**_other_types(), **BY_GGUF_ID}


class GgufPart(MappedTensors):
    """An open GGUF file: a `Source` with `metadata`, whose values are int, float, bool, str, list[str] or NumPy arrays.

    Strings are UTF-8; bytes of a value that are not (vocabularies hold some) become lone surrogates
    ("surrogateescape"), so that `value.encode("utf-8", "surrogateescape")` gives the bytes of the file.
    """

    def __init__(
        self, file: MappedFile, metadata: dict[str, Any], spans: dict[str, tuple[int, int]], entries: list[TensorEntry], start: int
    ) -> None:
        """spans: where each value of the metadata lies. start: where tensor data begins. Raises ModelFileError for bytes between tensors
        that belong to none."""
        super().__init__(file, entries)
        self.metadata, self._spans = metadata, spans
        alignment, expected = _alignment(metadata, self.where), start
        for entry in sorted(entries, key=lambda entry: entry.begin):
            if entry.begin != expected:
                raise ModelFileError(f"{self.where}: a hole of {entry.begin - expected} bytes before tensor {entry.name!r}")
            expected = -(-entry.end // alignment) * alignment

    def encoded(self, key: str) -> bytes:
        """A value of the metadata as the file has it: the number of its type, and what follows."""
        begin, end = self._spans[key]
        return self.file.data[begin:end].tobytes()


def read_part(path: Path) -> GgufPart:
    """Opens one GGUF file; tensor data is mapped, not read. A tensor's type may be one that `linnet.tensors.TYPES` lacks.

    Raises ModelFileError for a file that is not GGUF, is truncated or contradicts itself, and
    UnsupportedModelError for a version, byte order or tensor type that is not known here.
    """
    file = MappedFile(path)
    try:
        reader = _Reader(file)
        tensor_count, metadata = reader.header()
        entries, start = reader.tensors(tensor_count, _alignment(metadata, reader.where))
        return GgufPart(file, metadata, reader.spans, entries, start)
    except ModelFileError:
        file.close()
        raise


def _alignment(metadata: dict[str, Any], where: str) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ModelFileError(f"{where}: general.alignment is {str(alignment)[:40]}; a power of two was expected")
    return alignment


class _Reader:
    """A cursor over the file that never passes its end."""

    def __init__(self, file: MappedFile) -> None:
        self.map, self.size = file.map, min(file.size, MAX_HEADER_BYTES)
        self.where = str(file.path)
        self.position = 0
        self.strings_left = MAX_STRINGS
        self.spans: dict[str, tuple[int, int]] = {}

    # ---- metadata
    def header(self) -> tuple[int, dict[str, Any]]:
        """The number of tensors, and the metadata."""
        if self.map[:4] != b"GGUF":
            raise ModelFileError(f"{self.where}: not a GGUF file (it begins with {self.map[:4]!r})")
        self.position = 4
        version = self.number(_U32, "version")
        if version & 0xFFFF == 0:
            raise UnsupportedModelError(f"{self.where}: a big-endian GGUF file; convert it to little-endian")
        if version not in VERSIONS:
            raise UnsupportedModelError(f"{self.where}: GGUF version {version}; versions 2 and 3 are read: convert the model again")
        tensor_count, count = self.number(_U64, "tensor count"), self.number(_U64, "key count")
        self.need(tensor_count * 32, f"{tensor_count} tensors")
        self.need(count * 13, f"{count} metadata keys")
        if count > MAX_KEYS or tensor_count > MAX_TENSORS:
            raise ModelFileError(f"{self.where}: {count} keys and {tensor_count} tensors; at most {MAX_KEYS} and {MAX_TENSORS} are read")
        metadata: dict[str, Any] = {}
        for index in range(count):
            key = self.name(f"metadata key {index}")
            if key in metadata:
                raise ModelFileError(f"{self.where}: metadata key {key!r} appears twice")
            begin = self.position
            metadata[key] = self.value(self.number(_U32, key), key)
            self.spans[key] = begin, self.position
        return tensor_count, metadata

    def value(self, type_id: int, key: str) -> Any:
        if type_id == _STRING:
            return self.strings(1, key)[0]
        if type_id == _ARRAY:
            return self.array(key)
        if type_id not in _SCALARS:
            raise ModelFileError(f"{self.where}: metadata key {key!r} has the unknown value type {type_id}")
        value = self.number(_SCALARS[type_id], key)
        return self.truths(np.array([value], np.uint8), key).item() if type_id == _BOOL else value

    def array(self, key: str) -> list[str] | NDArray[Any]:
        type_id, count = self.number(_U32, key), self.number(_U64, key)
        if type_id == _STRING:
            return self.strings(count, key)
        if type_id == _ARRAY:
            raise UnsupportedModelError(f"{self.where}: metadata key {key!r} is an array of arrays")
        if type_id not in _SCALARS:
            raise ModelFileError(f"{self.where}: metadata key {key!r} is an array of the unknown value type {type_id}")
        item = _SCALARS[type_id]
        begin = self.need(count * item.size, f"{count} values of metadata key {key!r}")
        self.position += count * item.size
        values = np.frombuffer(self.map[begin : self.position], item.format)
        return self.truths(values, key) if type_id == _BOOL else values

    def truths(self, values: NDArray[np.uint8], key: str) -> NDArray[np.bool_]:
        if values.size and values.max() > 1:
            raise ModelFileError(f"{self.where}: metadata key {key!r} has a truth value other than 0 and 1")
        return values.astype(np.bool_)

    def strings(self, count: int, key: str) -> list[str]:
        """`count` strings. The loop is the hot path of opening a file: 300,000 turns for a large vocabulary."""
        self.need(count * 8, f"{count} strings of metadata key {key!r}")
        self.strings_left -= count
        if self.strings_left < 0:
            raise ModelFileError(f"{self.where}: more than {MAX_STRINGS} strings, at metadata key {key!r}")
        data, size, position, length_at = self.map, self.size, self.position, _U64.unpack_from
        found: list[str] = []
        append = found.append
        for _ in range(count):
            try:
                end = position + 8 + length_at(data, position)[0]
            except error:
                end = size + 1
            if end > size:
                raise ModelFileError(f"{self.where}: a string of metadata key {key!r} ends past {self.end()}")
            append(data[position + 8 : end].decode("utf-8", "surrogateescape"))
            position = end
        self.position = position
        return found

    # ---- tensors
    def tensors(self, count: int, alignment: int) -> tuple[list[TensorEntry], int]:
        """The tensors' entries, with offsets from the start of the file, and where the first may begin."""
        infos = list(self.infos(count, alignment))
        start = -(-self.position // alignment) * alignment
        return [TensorEntry(e.name, e.shape, e.type, start + e.begin, start + e.end) for e in infos], start

    def infos(self, count: int, alignment: int) -> Iterator[TensorEntry]:
        for index in range(count):
            name = self.name(f"the name of tensor {index}")
            what = f"tensor {name!r}"
            rank = self.number(_U32, what)
            if not 1 <= rank <= MAX_DIMENSIONS:
                raise ModelFileError(f"{self.where}: {what} has {rank} dimensions; 1 to {MAX_DIMENSIONS} were expected")
            shape = tuple(self.number(_U64, what) for _ in range(rank))[::-1]
            type_id, offset = self.number(_U32, what), self.number(_U64, what)
            if 0 in shape or prod(shape) > LARGEST:
                raise ModelFileError(f"{self.where}: {what} has the impossible shape {list(shape)}")
            if type_id not in _TYPES:
                raise UnsupportedModelError(f"{self.where}: {what} has the unknown tensor type {type_id}")
            type = _TYPES[type_id]
            if shape[-1] % type.block:
                raise ModelFileError(f"{self.where}: {what} has rows of {shape[-1]} values; {type.name} needs a multiple of {type.block}")
            if offset % alignment:
                raise ModelFileError(f"{self.where}: {what} begins at {offset}, not a multiple of the alignment {alignment}")
            yield TensorEntry(name, shape, type, offset, offset + type.nbytes(shape))

    # ---- pieces
    def need(self, count: int, what: str) -> int:
        """The position, if at least `count` bytes follow it."""
        if count > self.size - self.position:
            raise ModelFileError(f"{self.where}: {what} takes {count} bytes at {self.position}, past {self.end()}")
        return self.position

    def end(self) -> str:
        """What messages call the place where reading ends."""
        if self.size == MAX_HEADER_BYTES:
            return f"the {MAX_HEADER_BYTES} bytes that metadata and tensor descriptions may take"
        return f"the file's {self.size} bytes: truncated; download it again"

    def number(self, item: Struct, what: str) -> Any:
        begin = self.need(item.size, what)
        self.position += item.size
        return item.unpack_from(self.map, begin)[0]

    def name(self, what: str) -> str:
        """A metadata key or a tensor's name: short, not empty, valid UTF-8."""
        length = self.number(_U64, what)
        if not 1 <= length <= MAX_KEY_BYTES:
            raise ModelFileError(f"{self.where}: {what} has {length} bytes; 1 to {MAX_KEY_BYTES} were expected")
        begin = self.need(length, what)
        self.position += length
        try:
            return self.map[begin : self.position].decode("utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"{self.where}: {what} is not valid UTF-8") from None
