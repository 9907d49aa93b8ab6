"""JSON schemas for constrained answers: some written, as public suites have them, and any number of random ones."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from random import Random
from typing import Any

import jsonschema

Schema = dict[str, Any]

WRITTEN: dict[str, Schema] = {
    "anything": {},
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "string": {"type": "string"},
    "types": {"type": ["string", "null", "integer"]},
    "enum of all types": {"enum": [None, True, 0, -1.5, "a", 'a "quoted" \\ text\n', "é", "日本", [], [1, "x"], {}, {"a": {"b": None}}]},
    "const text": {"const": "yes"},
    "const object": {"const": {"a": [1, 2, {"b": "c"}], "d": None}},
    "const beside a type": {"type": "string", "const": "x"},
    "bounds": {"type": "integer", "minimum": -7, "maximum": 1200},
    "open bounds": {"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 2},
    "bounds with a fraction": {"type": "number", "minimum": -0.5, "maximum": 99.25},
    "open bounds with a fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "one bound": {"type": "number", "minimum": 17},
    "fractional bounds of an integer": {"type": "integer", "minimum": 0.5, "maximum": 3.5},
    "a multiple": {"type": "integer", "multipleOf": 7, "minimum": 0},
    "a fractional multiple": {"type": "number", "multipleOf": 0.25},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 8},
    "no length": {"type": "string", "maxLength": 0},
    "a pattern": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3,5}$"},
    "a pattern inside": {"type": "string", "pattern": "ab+c", "maxLength": 12},
    "a pattern of other letters": {"type": "string", "pattern": "^[à-ÿа-я]{1,4}$"},
    "a pattern with quotes": {"type": "string", "pattern": '^"\\\\?[\\n\\t]?x$'},
    "a pattern and lengths": {"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 4},
    **{f"format {name}": {"type": "string", "format": name} for name in ("date-time", "date", "time", "duration", "ipv4", "ipv6", "uuid")},
    **{f"format {name}": {"type": "string", "format": name, "maxLength": 60} for name in ("email", "hostname", "uri")},
    "an array": {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    "an array of some": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 3},
    "a tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string", "maxLength": 5}], "items": False, "minItems": 2},
    "a tuple and more": {"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    "no items": {"type": "array", "maxItems": 0},
    "nested arrays": {"type": "array", "items": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}, "maxItems": 3},
    "an object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "an object of options": {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in "abcde"},
        "additionalProperties": False,
    },
    "required but not described": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b", "a"], "maxProperties": 2},
    "a map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
    "a map with patterns": {
        "type": "object",
        "patternProperties": {"^s_[a-z]{1,3}$": {"type": "string", "maxLength": 3}, "^n_[a-z]{1,3}$": {"type": "integer"}},
        "additionalProperties": False,
    },
    "an empty object": {"type": "object", "additionalProperties": False},
    "one property at least": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "odd keys": {
        "type": "object",
        "properties": {key: {"const": 1} for key in ('"', "\\", "a b", "é", "\n", "", "$ref", "日本")},
        "required": ['"', "\\", "a b", "é", "\n", "", "$ref", "日本"],
        "additionalProperties": False,
    },
    "one of several types": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}, {"type": "null"}]},
    "either object": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
            {"type": "object", "properties": {"kind": {"const": "dog"}, "name": {"type": "string"}}, "required": ["kind", "name"]},
        ]
    },
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "all of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "siblings of any of": {"type": "integer", "minimum": 0, "anyOf": [{"maximum": 5}, {"minimum": 100, "maximum": 110}]},
    "a reference": {
        "$ref": "#/$defs/point",
        "$defs": {"point": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}},
    },
    "old definitions": {"$ref": "#/definitions/x", "definitions": {"x": {"enum": ["a", "b"]}}},
    "a reference with siblings": {"$ref": "#/$defs/x", "maximum": 5, "$defs": {"x": {"type": "integer", "minimum": 0}}},
    "an escaped reference": {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": "found"}}},
    "a list by recursion": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
    },
    "a tree": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["children"],
        "additionalProperties": False,
    },
    "a reference of a reference": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"type": "boolean"}},
    },
    "annotations": {"title": "T", "description": "D", "$comment": "c", "default": 1, "examples": [1], "type": "integer"},
    "properties named as keywords": {
        "type": "object",
        "properties": {"not": {"type": "boolean"}, "minProperties": {"const": 5}, "x-guidance": {"type": "null"}, "enum": {"enum": ["if"]}},
        "required": ["not", "minProperties", "x-guidance", "enum"],
        "additionalProperties": False,
    },
    "a call of a tool": {
        "type": "object",
        "properties": {
            "name": {"const": "get_weather"},
            "arguments": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "minLength": 1, "maxLength": 20},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    },
}

UNSUPPORTED: dict[str, Schema] = {
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"maxLength": 3}},
    "contains": {"type": "array", "contains": {"const": 1}},
    "uniqueItems": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 3}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "nullable": {"type": "string", "nullable": True},
}
"""By the keyword that an error must name."""


def random_schema(random: Random, depth: int = 3) -> Schema:
    """A schema that somebody can satisfy in a few dozen bytes."""
    kinds = [_constant, _integer, _number, _string, _boolean]
    if depth:
        kinds += 2 * [_array, _object, _object, _any_of, _all_of, _reference]
    return random.choice(kinds)(random, depth)


def _constant(random: Random, depth: int) -> Schema:
    values = [None, True, False, 0, 12, -3, 0.5, "", "red", 'a"b', "ü", [1], {"k": "v"}, [], {}]
    return random.choice([{"const": random.choice(values)}, {"enum": random.sample(values, random.randint(1, 5))}])


def _integer(random: Random, depth: int) -> Schema:
    low = random.randint(-1000, 1000)
    schema: Schema = {"type": "integer"}
    if random.random() < 0.5:
        schema[random.choice(["minimum", "exclusiveMinimum"])] = low
    if random.random() < 0.5:
        schema[random.choice(["maximum", "exclusiveMaximum"])] = low + random.randint(30, 2000)
    if random.random() < 0.2:
        schema["multipleOf"] = random.randint(1, 9)
    return schema


def _number(random: Random, depth: int) -> Schema:
    low = random.randint(-400, 400) / random.choice([1, 4, 10])
    schema: Schema = {"type": "number"}
    if random.random() < 0.5:
        schema[random.choice(["minimum", "exclusiveMinimum"])] = low
    if random.random() < 0.5:
        schema[random.choice(["maximum", "exclusiveMaximum"])] = low + random.randint(1, 50) / random.choice([1, 4])
    return schema


def _string(random: Random, depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    kind = random.randrange(3)
    if kind == 0:
        schema["minLength"] = random.randint(0, 4)
        schema["maxLength"] = schema["minLength"] + random.randint(0, 6)
    elif kind == 1:
        patterns = [
            "^[a-f0-9]{4}$",
            "^(red|green|blue)$",
            "^\\d+(\\.\\d{1,2})?$",
            "^\\w+@\\w+$",
            "x",
            "^.{2,5}$",
            "^[^a-z]{1,3}$",
            "(ab|c)+d",
        ]
        schema["pattern"] = random.choice(patterns)
        schema["maxLength"] = 12
    else:
        schema["format"] = random.choice(["date", "date-time", "time", "ipv4", "uuid"])
    return schema


def _boolean(random: Random, depth: int) -> Schema:
    return {"type": random.choice(["boolean", "null", ["boolean", "null"]])}


def _array(random: Random, depth: int) -> Schema:
    schema: Schema = {"type": "array", "items": random_schema(random, depth - 1)}
    if random.random() < 0.3:
        schema["prefixItems"] = [random_schema(random, depth - 1) for _ in range(random.randint(1, 3))]
    schema["minItems"] = random.randint(0, 2)
    schema["maxItems"] = schema["minItems"] + random.randint(0, 3)
    return schema


def _object(random: Random, depth: int) -> Schema:
    names = random.sample(["a", "b", "name", "two words", "ключ", 'q"', "x-y", "0"], random.randint(0, 4))
    schema: Schema = {"type": "object", "properties": {name: random_schema(random, depth - 1) for name in names}}
    schema["required"] = [name for name in names if random.random() < 0.6]
    schema["additionalProperties"] = random.choice([False, False, False, random_schema(random, depth - 1)])
    if names and random.random() < 0.2:
        schema["minProperties"] = 1
    return schema


def _any_of(random: Random, depth: int) -> Schema:
    return {"anyOf": [random_schema(random, depth - 1) for _ in range(random.randint(1, 3))]}


def _all_of(random: Random, depth: int) -> Schema:
    first, second = random.choice([(_integer, _integer), (_string, _string), (_object, _object), (_array, _array)])
    return {"allOf": [first(random, depth - 1), second(random, depth - 1)]} if depth > 1 else first(random, 1)


def _reference(random: Random, depth: int) -> Schema:
    """Definitions at the root are all that `#/$defs` reaches, so this one has an `$id` of its own."""
    name = random.choice(["x", "y z", "a/b"])
    pointer = name.replace("/", "~1").replace(" ", "%20")
    identity = f"https://example.com/{random.getrandbits(60)}"
    return {"$id": identity, "$ref": f"#/$defs/{pointer}", "$defs": {name: random_schema(random, depth - 1)}}


def validate(schema: Schema, text: str) -> None:
    """Raises where the text is no JSON that satisfies the schema; numbers are compared as decimals, as they are written."""
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    _Validator(exact, format_checker=_FORMATS).validate(json.loads(text, parse_float=_decimal))


def _multiple_of(validator: Any, divisor: int | Decimal, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Exact for numbers of any exponent, at which jsonschema's own division gives up."""
    if not validator.is_type(value, "number") or not Decimal(value).is_finite():  # infinite: see _decimal
        return
    (digits, exponent), (part, places) = (_whole(Decimal(number)) for number in (value, divisor))
    shift = exponent - places  # digits * 10**shift is to be a multiple of part
    if shift >= 0:
        left = digits * pow(10, shift, part) % part
    else:
        left = digits % (part * 10**-shift) if -shift <= len(str(digits)) else digits
    if left:
        yield jsonschema.ValidationError(f"{value} is not a multiple of {divisor}")


def _whole(number: Decimal) -> tuple[int, int]:
    """n and e of the finite number n * 10**e, without its sign."""
    _, digits, exponent = number.as_tuple()
    return int("".join(map(str, digits))), int(exponent)


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"multipleOf": _multiple_of})


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return Decimal(repr(float(text)))


_FORMATS = jsonschema.FormatChecker(formats=())


def _is_date(text: str) -> bool:
    year, rest = text[:4], text[4:]
    datetime.date.fromisoformat(("2000" if year == "0000" else year) + rest)  # Python's years begin at 1
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None


def _is_time(text: str) -> bool:
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-](\d\d):(\d\d))", text, re.ASCII)
    return match is not None and int(match[1]) < 24 and int(match[2]) < 60 and int(match[3]) < 61


_CHECKS: dict[str, Any] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": lambda text: _is_date(text[:10]) and text[10] in "Tt" and _is_time(text[11:]),
    "duration": lambda text: re.fullmatch(r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", text, re.ASCII) is not None,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": lambda text: uuid.UUID(text) and len(text) == 36,
    "email": lambda text: 0 < text.rfind("@") < len(text) - 1,
    "hostname": lambda text: (
        re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", text) is not None
    ),
    "uri": lambda text: re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) is not None,
}
for _name, _check in _CHECKS.items():
    _FORMATS.checks(_name, raises=(ValueError, IndexError))(lambda value, check=_check: not isinstance(value, str) or bool(check(value)))
