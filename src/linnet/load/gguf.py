"""A GGUF model: one file, or the parts of a split one, which name each other by number.

Splits follow llama.cpp (https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split): part 1 has the metadata, every
part has tensors of its own, and `split.no` (from 0), `split.count` and `split.tensors.count`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from linnet.errors import ModelFileError
from linnet.load.gguf_reader import GgufPart, read_part
from linnet.load.source import JoinedTensors, open_parts

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)
MAX_LISTED = 20


class GgufFile(JoinedTensors):
    """An open GGUF model: a `Source` with the `metadata` of its first part (see `GgufPart` for the values)."""

    def __init__(self, parts: Sequence[GgufPart]) -> None:
        super().__init__(parts[0].where, parts)
        self.metadata = parts[0].metadata
        self.encoded = parts[0].encoded


def read_gguf(path: str | Path) -> GgufFile:
    """Opens a GGUF model by its file or, where it is split, by any of its parts; the others lie beside it.

    Raises what `read_part` does, and ModelFileError for parts that are missing (each is named) or do not belong together.
    """
    path = Path(path)
    given = read_part(path)
    parts = [given]
    try:
        count = _split(given, "count", 1)
        if count > 1:
            siblings = _siblings(path, _split(given, "no"), count)
            parts = open_parts(siblings, lambda sibling: given if sibling == path else read_part(sibling))
            _check_parts(parts)
        return GgufFile(parts)
    except ModelFileError:
        for part in (given, *parts):
            part.close()
        raise


def is_later_part(path: Path) -> bool:
    """Whether a file's name says that it is a part of a split model, and not the first."""
    name = _PART.fullmatch(path.name)
    return name is not None and int(name["number"]) != 1


def _split(part: GgufPart, key: str, default: int | None = None) -> int:
    """A `split.` value: a whole number from 0 up."""
    value = part.metadata.get(f"split.{key}", default)
    if type(value) is not int or value < 0:
        raise ModelFileError(f"{part.where}: split.{key} is {str(value)[:40]}; a whole number was expected")
    return value


def _siblings(path: Path, number: int, count: int) -> list[Path]:
    """The paths of all parts, in order, `path` among them; they differ in nothing but the number."""
    name = _PART.fullmatch(path.name)
    if name is None or (int(name["number"]), int(name["count"])) != (number + 1, count):
        raise ModelFileError(
            f"{path}: part {number + 1} of {count} of a split model, so its name must end in -{number + 1:05}-of-{count:05}.gguf "
            "for the other parts to be found; give it its own name back"
        )
    siblings = [path.with_name(f"{name['stem']}-{n:05}-of-{count:05}{name['suffix']}") for n in range(1, count + 1)]
    missing = [sibling.name for sibling in siblings if not sibling.exists()]
    if missing:
        raise ModelFileError(
            f"{path}: {len(missing)} of the model's {count} parts are not there: {', '.join(missing[:MAX_LISTED])}; download them"
        )
    return siblings


def _check_parts(parts: Sequence[GgufPart]) -> None:
    for index, part in enumerate(parts):
        number, count = _split(part, "no"), _split(part, "count")
        if (number, count) != (index, len(parts)):
            raise ModelFileError(f"{part.where}: says that it is part {number + 1} of {count}, not {index + 1} of {len(parts)}")
    found = sum(len(part.tensors) for part in parts)
    stated = _split(parts[0], "tensors.count", found)
    if found != stated:
        raise ModelFileError(f"{parts[0].where}: says that the model has {stated} tensors, but its parts hold {found}; download them again")
