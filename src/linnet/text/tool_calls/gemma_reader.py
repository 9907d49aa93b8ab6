"""Gemma 4's tool calls, whose arguments are no JSON, told as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

from linnet.text.tool_calls.json_reader import (
    MAX_DEPTH,
    MAX_SCALAR,
    SCALAR,
    SPACE,
    MalformedError,
    Reading,
    after_space,
    rest_of_string,
)

QUOTE = '<|"|>'
"""A token, on both sides of a text, in which nothing is escaped."""

Tell = Callable[[str], None]
_IN_SCALAR = frozenset("+-.0123456789EaeflnorstuNTF")
_PYTHON = {"None": "null", "True": "true", "False": "false"}
"""What chat templates write of values that their authors did not think of, so that models may, too."""


def arguments(c: str, tell: Tell, depth: int = 0) -> Reading[None]:
    """`{key:<|"|>text<|"|>,other:[1,true]}`, or a list within it, which begins with `c`, up to its closing bracket. tell: takes the JSON,
    piece by piece."""
    if c not in ("{", "[") or depth == MAX_DEPTH:
        raise MalformedError
    closing = {"{": "}", "[": "]"}[c]
    tell(c)
    is_object, separator = c == "{", ""
    c = yield from after_space()
    while c != closing:
        if separator:
            if c != separator:
                raise MalformedError
            c = yield from after_space()
        tell(", " if separator else "")
        separator = ","
        if is_object:
            yield from _key(c, tell)
            c = yield from after_space()
        c = yield from _value(c, tell, depth)
    tell(closing)


def _key(c: str, tell: Tell) -> Reading[None]:
    """A key, bare or quoted, and the colon after it."""
    if c in ("<", '"'):
        c = yield from _value(c, tell, MAX_DEPTH)
        if c != ":":
            raise MalformedError
    else:
        key = ""
        while c != ":":
            if not c or c in '{}[],"' or len(key) == MAX_SCALAR:
                raise MalformedError
            key += c
            c = yield
        tell(json.dumps(key.strip(), ensure_ascii=False))
    tell(": ")


def _value(c: str, tell: Tell, depth: int) -> Reading[str]:
    """A value that begins with `c`; the first character after it that is no white space."""
    if c == "<":
        yield from _text(tell)
    elif c == '"':
        tell(json.dumps((yield from rest_of_string()), ensure_ascii=False))
    elif c in ("{", "["):
        yield from arguments(c, tell, depth + 1)
    else:
        scalar = ""
        while c in _IN_SCALAR and len(scalar) < MAX_SCALAR:
            scalar += c
            c = yield
        scalar = _PYTHON.get(scalar, scalar)
        if not SCALAR.fullmatch(scalar):
            raise MalformedError
        tell(scalar)
        return c if c not in SPACE else (yield from after_space())
    return (yield from after_space())


def _text(tell: Tell) -> Reading[None]:
    """A text whose opening quote has begun, up to its closing one."""
    for expected in QUOTE[1:]:
        if (yield) != expected:
            raise MalformedError
    tell('"')
    held = ""
    while held != QUOTE:
        c = yield
        if not c:
            raise MalformedError
        held += c
        while not QUOTE.startswith(held):
            tell(json.dumps(held[0], ensure_ascii=False)[1:-1])
            held = held[1:]
    tell('"')
