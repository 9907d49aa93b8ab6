"""JSON schemas, before they become grammars: what llguidance reads otherwise than JSON Schema means it is refused by name.

llguidance itself refuses what it does not know. Left for here is what it takes and does not keep (1.9.1; found by validating what
random schemas let through): numbers that it rounds, open bounds that it closes, and counts of properties of which two are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from linnet.errors import InvalidRequestError

MAX_EXACT = 2**53
"""Up to here float64 holds every integer; times a power of ten up to 22, conversions from decimals are exact."""

_ANNOTATIONS = frozenset("$anchor $comment $defs $id $schema default definitions deprecated description examples id title".split())


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises InvalidRequestError that names what cannot be kept."""
    if "x-guidance" in schema:
        raise InvalidRequestError("json_schema has x-guidance, settings of llguidance that are not a request's to make; leave it out")
    objects = []
    for value in _values(schema):
        if isinstance(value, dict):
            objects.append(value)
            _check_counts(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            _check_number(value)
    for lows, highs in map(_bounds, objects):
        _check_open(lows, highs)
    if any(map(_intersects, objects)):  # bounds of different places can come to stand together
        _check_open([low for value in objects for low in _bounds(value)[0]], [high for value in objects for high in _bounds(value)[1]])


def _values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Everything in it: a reference may make a schema of any object, wherever it stands."""
    pending: list[Any] = [schema]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _check_number(value: float) -> None:
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    mantissa = int("".join(map(str, digits)) or "0")
    if mantissa > MAX_EXACT or not isinstance(exponent, int) or abs(exponent) > 22:
        raise InvalidRequestError(f"json_schema holds the number {value!r}, which is not kept exactly: digits up to 2^53, e-22 to e22 are")


def _check_counts(schema: Mapping[str, Any]) -> None:
    """A grammar of properties that are not listed cannot tell whether two of them are the same."""
    least, required = schema.get("minProperties"), schema.get("required")
    listed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    certain = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, certain) and not listed:
        raise InvalidRequestError(
            f"json_schema has minProperties {least}, which is kept only where additionalProperties is false, or required lists as many"
        )


_Entries = list[tuple[Any, bool]]


def _bounds(schema: Mapping[str, Any]) -> tuple[_Entries, _Entries]:
    """(lower bounds, upper bounds) of numbers, and whether each is open."""

    def found(closed: str, open: str) -> _Entries:
        entries = [(schema.get(closed), schema.get(open) is True), (schema.get(open), True)]  # draft 4 opens a bound by a flag
        return [(value, opened) for value, opened in entries if isinstance(value, (int, float)) and not isinstance(value, bool)]

    return found("minimum", "exclusiveMinimum"), found("maximum", "exclusiveMaximum")


def _intersects(schema: Mapping[str, Any]) -> bool:
    applied = schema.keys() & {"$ref", "anyOf", "oneOf", "allOf"}
    return "allOf" in applied or len(applied) > 1 or bool(applied and schema.keys() - applied - _ANNOTATIONS)


def _check_open(lows: _Entries, highs: _Entries) -> None:
    """An open bound that is an integer, less than one away from the other bound, is taken as closed."""
    for low, low_open in lows:
        for high, high_open in highs:
            if 0 < high - low < 1 and ((low_open and low == int(low)) or (high_open and high == int(high))):
                bound = f"exclusiveMinimum {low}" if low_open and low == int(low) else f"exclusiveMaximum {high}"
                raise InvalidRequestError(f"json_schema has {bound} within 1 of the other bound, which is not kept; move it")
