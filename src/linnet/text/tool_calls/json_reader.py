"""JSON that comes character by character (RFC 8259): generators that are sent one each, and return where what they read ends.

The end of the text is sent as "", which no reader takes for part of a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, str, T]

SPACE = frozenset(" \t\n\r")
MAX_DEPTH = 64
MAX_SCALAR = 1000
"""Limits of what is read. (Python itself refuses integers of more than 4,300 digits, and nesting deeper than its stack.)"""

_ESCAPED = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")
_IN_SCALAR = frozenset("+-.0123456789Eaeflnrstu")


class MalformedError(Exception):
    """The last character cannot follow what came before it. Raised for the parser alone, which catches it."""


def after_space() -> Reading[str]:
    """Skips white space; returns the first character after it."""
    while (c := (yield)) in SPACE:
        pass
    return c


def rest_of_string() -> Reading[str]:
    """Reads a string after its opening quote, up to the closing one; returns the text that it stands for."""
    raw = ['"']
    while raw[-1] != '"' or len(raw) == 1:
        c = yield
        if c < " ":  # the end of the text, too
            raise MalformedError
        raw.append(c)
        if c == "\\":
            raw[-1] += yield from _escaped()
    return str(json.loads("".join(raw)))


def _escaped() -> Reading[str]:
    c = yield
    if c != "u":
        if c not in _ESCAPED:
            raise MalformedError
        return c
    for _ in range(4):
        digit = yield
        if digit not in _HEX:
            raise MalformedError
        c += digit
    return c


def value(c: str, depth: int = 0) -> Reading[str]:
    """Reads a value that begins with `c`; returns the first character after it that is not white space."""
    if c == '"':
        yield from rest_of_string()
    elif c in ("{", "["):
        yield from rest_of_container(c, depth)
    else:
        scalar = ""
        while c in _IN_SCALAR and len(scalar) < MAX_SCALAR:
            scalar += c
            c = yield
        if not SCALAR.fullmatch(scalar):
            raise MalformedError
        return c if c not in SPACE else (yield from after_space())
    return (yield from after_space())


def rest_of_container(opening: str, depth: int = 0) -> Reading[None]:
    """Reads an object or array after its opening bracket, up to the closing one."""
    if depth == MAX_DEPTH:
        raise MalformedError
    closing = "}" if opening == "{" else "]"
    c = yield from after_space()
    if c == closing:
        return
    while True:
        if opening == "{":
            yield from key(c)
            c = yield from after_space()
        c = yield from value(c, depth + 1)
        if c == closing:
            return
        if c != ",":
            raise MalformedError
        c = yield from after_space()


def key(c: str) -> Reading[str]:
    """Reads a key that begins with `c` and the colon after it; returns the key."""
    if c != '"':
        raise MalformedError
    name = yield from rest_of_string()
    if (yield from after_space()) != ":":
        raise MalformedError
    return name
