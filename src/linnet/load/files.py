"""Files as the readers need them: mapped memory with bounds, and JSON objects. Knows no model format."""

from __future__ import annotations

import json
import mmap
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import ModelFileError

MAX_JSON_BYTES = 100 * 2**20
"""Longest JSON text that is parsed: the limit of the safetensors format for its header."""


class MappedFile:
    """A regular file mapped read-only. `data` is uint8 [size]; nothing is read before it is touched.

    Raises ModelFileError for a file that is missing, empty, unreadable or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ModelFileError(f"{path}: " + ("not a regular file" if path.exists() else "no such file"))
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise ModelFileError(f"{path}: the file is empty; download it again")
                self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
        self.data: NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)

    def release(self, begin: int, end: int) -> None:
        """Gives the pages of bytes [begin, end) back to the system; touching them again reads them again."""
        if hasattr(self.map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            begin -= begin % mmap.PAGESIZE
            if end > begin:
                self.map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def close(self) -> None:
        """Unmaps the file; while arrays still view it, that happens when the last of them goes."""
        self.data = np.empty(0, np.uint8)
        with suppress(BufferError):  # while views are alive they keep the mapping
            self.map.close()


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object; ModelFileError where the text is not one, names a key twice, or nests too deep."""
    if len(text) > MAX_JSON_BYTES:
        raise ModelFileError(f"{where}: {len(text)} bytes of JSON, more than the {MAX_JSON_BYTES} allowed")
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: a JSON object was expected, not a {type(value).__name__}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name!r} appears twice")
        found[name] = value
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file (UTF-8, at most MAX_JSON_BYTES)."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFileError(f"{path}: {path.stat().st_size} bytes of JSON, more than the {MAX_JSON_BYTES} allowed")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
