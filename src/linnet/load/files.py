"""Files as the readers need them: mapped memory with bounds, and JSON objects. Knows no model format."""

from __future__ import annotations

import json
import mmap
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import ModelFileError

MAX_JSON_BYTES = 100 * 2**20
"""Longest JSON text that is parsed: the limit of the safetensors format for its header."""
MAX_JSON_VALUES = 4 * 2**20
"""Most values of one JSON text: a header of 400,000 tensors. Three bytes of text can take a hundred of memory."""
MAX_JSON_DEPTH = 100
"""Deepest nesting. Python itself stops where its stack ends, which would depend on who asks."""

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class MappedFile:
    """A regular file mapped read-only. `data` is uint8 [size]; nothing is read before it is touched.

    Raises ModelFileError for a file that is missing, empty, unreadable or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path)
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise ModelFileError(f"{path}: the file is empty; download it again")
                self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: cut short between the two calls
            raise ModelFileError(f"{path}: cannot be read ({error})") from error
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


def check_regular(path: Path) -> None:
    """Raises ModelFileError unless `path` is a regular file: opening a pipe would wait for ever, a device never ends."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # not allowed, a loop of links; a NUL in the name
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path}: not a regular file")


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object; ModelFileError where the text is not one, names a key twice, nests too deep or holds too much."""
    value = _parse(text, where)
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: a JSON object was expected, not a {type(value).__name__}")
    return value


def _parse(text: bytes, where: str) -> Any:
    bound_json(text, where)
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid JSON ({error})") from error
    if isinstance(value, (dict, list)) and _nests_deeper(value, MAX_JSON_DEPTH):
        raise ModelFileError(f"{where}: not valid JSON for a model (it nests deeper than {MAX_JSON_DEPTH} levels)")
    if _ESCAPED_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ModelFileError(f"{where}: not valid JSON (a lone surrogate, U+{ord(error.object[error.start]):04X})") from None
    return value


def bound_json(text: bytes, where: str) -> None:
    """ModelFileError for JSON that would take far more memory than its bytes, before it is parsed."""
    if len(text) > MAX_JSON_BYTES:
        raise ModelFileError(f"{where}: {len(text)} bytes of JSON, more than the {MAX_JSON_BYTES} allowed")
    most = text.count(b",") + text.count(b"{") + text.count(b"[")  # commas in texts count too: a bound is all that is wanted
    if most > MAX_JSON_VALUES:
        raise ModelFileError(f"{where}: JSON of up to {most} values, more than the {MAX_JSON_VALUES} allowed")


def _nests_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        items = (item for holder in level for item in (holder.values() if type(holder) is dict else holder))
        level = [item for item in items if type(item) in (dict, list)]
        if not level:
            return False
    return True


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name!r} appears twice")
        found[name] = value
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file (UTF-8, at most MAX_JSON_BYTES)."""
    return parse_json(read_bytes(path, MAX_JSON_BYTES), str(path))


def read_json_list(path: Path) -> list[Any]:
    """The same of a JSON array."""
    value = _parse(read_bytes(path, MAX_JSON_BYTES), str(path))
    if not isinstance(value, list):
        raise ModelFileError(f"{path}: a JSON array was expected, not a {type(value).__name__}")
    return value


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; ModelFileError otherwise, before any of it is read."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size > most:
                raise ModelFileError(f"{path}: {size} bytes, more than the {most} that such a file may have")
            file.seek(0)
            return file.read(most)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
