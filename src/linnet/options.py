"""Options as data: a dataclass field with its documentation and bounds, checked when it is given. A leaf module."""

from __future__ import annotations

import difflib
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from linnet.errors import InvalidRequestError

MAX_TEXTS = 64
MAX_TEXT_LENGTH = 1024
"""Bounds of a list of texts. Both are far beyond sensible use, and keep the search for the texts cheap."""


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    *,
    choices: tuple[bool | str, ...] | None = None,
    later: tuple[str, ...] = (),
    letter: str | None = None,
) -> Any:
    """A field with its help text and either a closed range or its choices; `high` alone is the longest list of texts.

    later: choices that are not built yet; letter: marks a whole option that is not. Both are refused by name.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "later": later, "letter": letter}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


Self = TypeVar("Self", bound="Options")


class Options:
    """Base of a frozen, keyword-only dataclass of `option`s. Unknown names, wrong types and values out of range raise
    InvalidRequestError; what passes is stored as plain Python (int, float, tuple ...)."""

    def __new__(cls: type[Self], **options: Any) -> Self:
        """Refuses unknown names before the generated `__init__` would raise a TypeError."""
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in options.keys() - known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the options are {', '.join(known)}"
            raise InvalidRequestError(f"there is no option {name!r}; {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))


def check_writable(option: str, path: Path) -> None:
    """Raises InvalidRequestError if a file cannot be written: to be called before the work whose result it will hold. Creates no file, and
    leaves one that exists as it is."""
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequestError(f"{option} {path}: cannot be written ({reason})") from None


def _checked(f: Field[Any], value: Any) -> Any:
    """The value as its plain Python type, or InvalidRequestError. The type is the field's annotation, as text."""
    name, bounds, kind = f.name, f.metadata, str(f.type)
    if bounds["letter"] is not None:
        if value is not f.default and (f.default is None or value != f.default):
            raise InvalidRequestError(f"{name} is not built yet: leave it at its default, {f.default!r}")
        return f.default
    if kind.endswith(" | None"):
        if value is None:
            return None
        kind = kind.removesuffix(" | None")
    if kind == "Any":
        return value
    low, high, choices = bounds["low"], bounds["high"], bounds["choices"]
    if kind == "Sequence[str]":
        return _texts(name, value, high or MAX_TEXTS)
    value = _CONVERT[kind.partition("[")[0] if kind.startswith("Callable") else kind](name, value)
    if low is not None and (value < low or (high is not None and value > high)):
        range = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequestError(f"{name} is {value}; it must be {range}")
    if value in bounds["later"]:
        raise InvalidRequestError(f"{name}={value!r} is not built yet; there are {', '.join(choices)}")
    if choices is not None and value not in choices:
        raise InvalidRequestError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")
    return value


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequestError(f"{name} is {value!r}; it must be an integer")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a number")
    try:
        number = float(value)
    except OverflowError:  # an integer past the largest float
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequestError(f"{name} is {number}; it must be a finite number")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} is {value!r}; it must be True or False")
    return value


def _flag_or_text(name: str, value: Any) -> bool | str:
    if not isinstance(value, (bool, str)):
        raise InvalidRequestError(f"{name} is {value!r}; it must be True, False or a text")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a text")
    return value


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise InvalidRequestError(f"{name} is {value!r}; it must be callable")
    return value


def _items(name: str, value: Any, what: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a list of {what}")
    return list(value)


def _texts(name: str, value: Any, most: int) -> tuple[str, ...]:
    """A list of texts; a single text is a list of one."""
    texts = [value] if isinstance(value, str) else _items(name, value, "texts")
    if len(texts) > most:
        raise InvalidRequestError(f"{name} has {len(texts)} texts; the most is {most}")
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name} holds {text!r}; it must be a list of texts")
        if not 0 < len(text) <= MAX_TEXT_LENGTH:
            raise InvalidRequestError(f"{name} holds a text of {len(text)} characters; each must have 1 to {MAX_TEXT_LENGTH}")
    return tuple(texts)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    return tuple(_token_id(name, item) for item in _items(name, value, "token ids"))


def _token_id(name: str, value: Any) -> int:
    token = _integer(f"a token id in {name}", value)
    if token < 0:
        raise InvalidRequestError(f"{name} holds token id {token}; token ids start at 0")
    return token


def _bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name} is {value!r}; it must map token ids to numbers")
    return {_token_id(name, token): _number(f"{name}[{token}]", bias) for token, bias in value.items()}


def _json_object(name: str, value: Any) -> str:
    """The JSON text of an object, which is given as an object or as its text; members keep their order."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(dict(parsed) if isinstance(parsed, Mapping) else None, ensure_ascii=False, allow_nan=False)
        text.encode()
    except RecursionError:
        raise InvalidRequestError(f"{name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}") from None
    except (TypeError, ValueError) as error:  # what JSON cannot hold: other types, NaN, objects within themselves, lone surrogates
        raise InvalidRequestError(f"{name} holds what JSON cannot: {error}") from None
    if text == "null":
        raise InvalidRequestError(f"{name} is {reprlib.repr(value)}; it must be an object, or the JSON text of one")
    return text


_CONVERT: dict[str, Callable[[str, Any], Any]] = {
    "int": _integer,
    "float": _number,
    "bool": _flag,
    "str": _text,
    "bool | str": _flag_or_text,
    "Callable": _function,
    "str | Mapping[str, Any]": _json_object,
    "Sequence[int]": _token_ids,
    "Mapping[int, float]": _bias,
}
