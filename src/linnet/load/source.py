"""`Source`: named tensors, wherever they are; and the part that all mapped formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from linnet.errors import ModelFileError
from linnet.load.files import MappedFile
from linnet.tensors import RawTensor, TensorType

Part = TypeVar("Part", bound="MappedTensors")


class Source(Protocol):
    """Tensors by name. Asking for a name that is not there raises ModelFileError."""

    where: str
    """What messages call this source: a path, or "memory"."""

    files: tuple[Path, ...]
    """The files that hold the tensors; none in memory."""

    def names(self) -> list[str]:
        """Every tensor's name, in the order of the file."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, outermost first, without reading it."""

    def type(self, name: str) -> TensorType:
        """How the tensor is stored, perhaps in a type that `linnet.tensors.TYPES` lacks."""

    def read(self, name: str) -> RawTensor:
        """The tensor; its data is a view of mapped memory, not necessarily aligned to its type."""

    def release(self, name: str) -> None:
        """Gives the tensor's pages back to the system where the platform can; the tensor stays readable."""

    def close(self) -> None:
        """Ends the mapping, once no array views it any more."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: bytes [begin, end) of its file."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    begin: int
    end: int


class MappedTensors:
    """A `Source` over entries of one mapped file, whose bounds are checked here before any is used.

    Raises ModelFileError for an entry that ends past the file or shares bytes with another.
    """

    def __init__(self, file: MappedFile, entries: Iterable[TensorEntry]) -> None:
        self.file = file
        self.where = str(file.path)
        self.files: tuple[Path, ...] = (file.path,)
        self.tensors: dict[str, TensorEntry] = {}
        for entry in entries:
            if entry.name in self.tensors:
                raise ModelFileError(f"{self.where}: tensor {entry.name!r} appears twice")
            if entry.end > file.size:
                raise ModelFileError(
                    f"{self.where}: tensor {entry.name!r} ends at {entry.end}, past the file's {file.size}: truncated; download it again"
                )
            self.tensors[entry.name] = entry
        by_place = sorted((e for e in self.tensors.values() if e.end > e.begin), key=lambda e: e.begin)
        for before, after in pairwise(by_place):
            if after.begin < before.end:
                raise ModelFileError(f"{self.where}: tensors {before.name!r} and {after.name!r} overlap")

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def type(self, name: str) -> TensorType:
        return self._entry(name).type

    def read(self, name: str) -> RawTensor:
        entry = self._entry(name)
        return RawTensor(name, entry.shape, entry.type, self.file.data[entry.begin : entry.end])

    def release(self, name: str) -> None:
        entry = self._entry(name)
        self.file.release(entry.begin, entry.end)

    def close(self) -> None:
        self.file.close()

    def _entry(self, name: str) -> TensorEntry:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelFileError(f"{self.where}: no tensor {name!r}") from None


class JoinedTensors:
    """A `Source` over several files, each with tensors of its own.

    Raises ModelFileError, and closes the files, where two hold a tensor of one name.
    """

    def __init__(self, where: str, parts: Sequence[MappedTensors]) -> None:
        self.where, self.parts = where, parts
        self.files: tuple[Path, ...] = tuple(part.file.path for part in parts)
        self.homes: dict[str, MappedTensors] = {}
        for part in parts:
            for name in part.names():
                if self.homes.setdefault(name, part) is not part:
                    self.close()
                    raise ModelFileError(f"{where}: tensor {name!r} is in both {self.homes[name].where} and {part.where}")

    def names(self) -> list[str]:
        return list(self.homes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._home(name).shape(name)

    def type(self, name: str) -> TensorType:
        return self._home(name).type(name)

    def read(self, name: str) -> RawTensor:
        return self._home(name).read(name)

    def release(self, name: str) -> None:
        self._home(name).release(name)

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def _home(self, name: str) -> MappedTensors:
        try:
            return self.homes[name]
        except KeyError:
            raise ModelFileError(f"{self.where}: no tensor {name!r}") from None


def open_parts(paths: Iterable[Path], read: Callable[[Path], Part]) -> list[Part]:
    """What `read` gives for every path; where one fails, those already open are closed."""
    parts: list[Part] = []
    try:
        parts.extend(map(read, paths))
    except ModelFileError:
        for part in parts:
            part.close()
        raise
    return parts
