"""Tensors that differ in nothing but the numbers in their names, as one line: a model of eighty layers reads like one of one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from linnet.errors import InvalidRequestError
from linnet.look.phrases import numbers
from linnet.look.report import TensorFacts

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class TensorFamily:
    """name: with the numbers that occur in each place, in braces where there are several. first: the first of `count` tensors, which
    all have its shape, type and part."""

    name: str
    first: TensorFacts
    count: int


def families(tensors: Iterable[TensorFacts]) -> list[TensorFamily]:
    """In the order of their first tensors."""
    members: dict[tuple[object, ...], list[TensorFacts]] = {}
    for tensor in tensors:
        key = (_NUMBER.sub("{}", tensor.name), tensor.shape, tensor.type, tensor.part)
        members.setdefault(key, []).append(tensor)
    return [TensorFamily(_common_name(alike), alike[0], len(alike)) for alike in members.values()]


def _common_name(tensors: list[TensorFacts]) -> str:
    columns = zip(*(map(int, _NUMBER.findall(tensor.name)) for tensor in tensors), strict=True)
    places = iter([sorted(set(column)) for column in columns])
    return _NUMBER.sub(lambda _: _place(next(places)), tensors[0].name)


def _place(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{{{numbers(values)}}}"


def matching(tensors: Iterable[TensorFacts], pattern: str) -> list[TensorFacts]:
    """Those whose names match a pattern of the shell (*, ?, [...]). Raises InvalidRequestError where none does."""
    every = list(tensors)
    found = [tensor for tensor in every if fnmatchcase(tensor.name, pattern)]
    if not found:
        names = ", ".join(tensor.name for tensor in every[:3])
        raise InvalidRequestError(f"no tensor is called {pattern!r}; there are {len(every)}, such as {names} (* stands for any characters)")
    return found
