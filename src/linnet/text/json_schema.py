"""Checks JSON schemas before they become grammars: keywords that would not be enforced are refused by name.

llguidance ignores keywords that it does not know, and enforces some of those that it knows differently from JSON Schema (1.9.1; found by
validating the answers that random schemas allow): it rounds numbers, treats exclusive bounds as inclusive, and counts a repeated property
twice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from linnet.errors import InvalidRequestError

MAX_EXACT = 2**53
"""Up to here float64 holds every integer; with a power of ten up to 22, conversions from decimals are exact."""

# The keywords that llguidance enforces, by where their value holds schemas: in an object, as the value or in a list, or nowhere.
_MAPS = frozenset("$defs definitions patternProperties properties".split())
_APPLIED = frozenset("$ref additionalItems additionalProperties allOf anyOf items oneOf prefixItems".split())
_SIMPLE = frozenset(
    "const enum exclusiveMaximum exclusiveMinimum format maximum maxItems maxLength maxProperties minimum minItems minLength minProperties "
    "multipleOf pattern required type".split()
)
_REMARKS = frozenset(
    "$anchor $comment $id $schema contentEncoding contentMediaType default deprecated description discriminator example examples "
    "externalDocs id readOnly title writeOnly".split()
)
_KEYWORDS = _MAPS | _APPLIED | _SIMPLE | _REMARKS


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises InvalidRequestError that names what cannot be enforced."""
    for part in _schemas(schema):
        for keyword in part:
            if keyword not in _KEYWORDS and (not keyword.startswith("x-") or keyword == "x-guidance"):
                close = difflib.get_close_matches(keyword, _KEYWORDS, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise InvalidRequestError(f"json_schema has the keyword {keyword!r}, which is not supported{hint}")
    values = list(_values(schema))
    for value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _check_number(value)
    objects = [value for value in values if isinstance(value, dict)]
    for value in objects:
        _check_counts(value)
        _check_open(*_bounds(value))
    if any(map(_intersects, objects)):  # bounds from different places may be combined
        _check_open([low for value in objects for low in _bounds(value)[0]], [high for value in objects for high in _bounds(value)[1]])


def _schemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas inside it."""
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            yield part
            pending += [inner for key in part.keys() & _MAPS if isinstance(part[key], dict) for inner in part[key].values()]
            pending += [part[key] for key in part.keys() & _APPLIED]
        elif isinstance(part, list):
            pending += part


def _values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """All values inside it, since a reference may use any object anywhere as a schema."""
    pending: list[Any] = [schema]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _check_number(value: float) -> None:
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    mantissa = int("".join(map(str, digits)))
    if mantissa > MAX_EXACT or not isinstance(exponent, int) or abs(exponent) > 22:
        raise InvalidRequestError(f"json_schema holds the number {value!r}, which is not kept exactly: digits up to 2^53, e-22 to e22 are")


def _check_counts(schema: Mapping[str, Any]) -> None:
    """Refuses counts of properties that the schema does not list: a grammar cannot tell whether two of them have the same name."""
    least, required = schema.get("minProperties"), schema.get("required")
    listed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    certain = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, certain) and not listed:
        raise InvalidRequestError(
            f"json_schema has minProperties {least}, which is kept only where additionalProperties is false, or required lists as many"
        )


_Entries = list[tuple[Any, bool]]


def _bounds(schema: Mapping[str, Any]) -> tuple[_Entries, _Entries]:
    """(lower bounds, upper bounds) of numbers, each with whether it is exclusive."""

    def found(closed: str, open: str) -> _Entries:
        entries = [(schema.get(closed), schema.get(open) is True), (schema.get(open), True)]  # in draft 4, a flag makes a bound exclusive
        return [(value, opened) for value, opened in entries if isinstance(value, (int, float)) and not isinstance(value, bool)]

    return found("minimum", "exclusiveMinimum"), found("maximum", "exclusiveMaximum")


def _intersects(schema: Mapping[str, Any]) -> bool:
    applied = schema.keys() & {"$ref", "anyOf", "oneOf", "allOf"}
    return "allOf" in applied or len(applied) > 1 or bool(applied and schema.keys() & (_SIMPLE | _APPLIED | _MAPS) - applied - {"$defs"})


def _check_open(lows: _Entries, highs: _Entries) -> None:
    """Refuses an exclusive integer bound less than 1 away from the other bound, since llguidance treats it as inclusive."""
    for low, low_open in lows:
        for high, high_open in highs:
            if 0 < high - low < 1 and ((low_open and low == int(low)) or (high_open and high == int(high))):
                bound = f"exclusiveMinimum {low}" if low_open and low == int(low) else f"exclusiveMaximum {high}"
                raise InvalidRequestError(f"json_schema has {bound} within 1 of the other bound, which is not kept; move it")
