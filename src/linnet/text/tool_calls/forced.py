"""Calls that a model is required to make, in its own format: the text that the answer begins with, and a grammar for the rest."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.text.grammar_source import schema_source
from linnet.text.tool_calls.formats import HERMES, LLAMA, MISTRAL, Format

# What stands before a call, between its name and its arguments, and after it. What is before is given to the model rather than asked
# for, since a grammar cannot ask for control tokens; end markers are left to the end of the answer, which the parser takes for one.
_PARTS = {
    HERMES.name: (HERMES.opening + "\n", '{"name": NAME, "arguments": ', "}"),
    LLAMA.name: ("", '{"name": NAME, "parameters": ', "}"),
    MISTRAL.name: (MISTRAL.opening, '[{"name": NAME, "arguments": ', "}]"),
}


def opening_of(format: Format) -> str:
    """The text that the engine puts at the beginning of an answer that must be a call."""
    return _parts(format)[0]


def _parts(format: Format) -> tuple[str, str, str]:
    if format.name not in _PARTS:
        raise InvalidRequestError(
            f"a call as {format.name} writes it is no JSON, and cannot be demanded or held to a schema; leave tool_choice and strict out"
        )
    return _PARTS[format.name]


def grammar_of_calls(format: Format, tools: Sequence[Mapping[str, Any]], strict: Container[str] | None = None) -> str:
    """A Lark grammar of one call of one of the tools, after the opening, its arguments by the tool's schema; or, of an answer that opens
    a call by itself, by the schemas of those that are `strict`. Raises InvalidRequestError that names the tool whose schema cannot be
    kept."""
    _, middle, closing = _parts(format)
    calls = " | ".join(f"call_{index}" for index in range(len(tools)))
    rules = [f"start: {calls}" if strict is None else f'start: call | "\\n" call\ncall: {calls}']
    for index, tool in enumerate(tools):
        function = tool["function"]
        kept = strict is None or function["name"] in strict
        try:
            arguments = schema_source(_closed(_without_nullable(function["parameters"])) if kept else {"type": "object"})
        except InvalidRequestError as error:
            raise InvalidRequestError(f"tool {function['name']}: {error}") from None
        opening = middle.replace("NAME", json.dumps(function["name"]))
        rules.append(f"call_{index}: {json.dumps(opening)} arguments_{index} {json.dumps(closing)}")
        rules.append(f"arguments_{index}: {arguments}")
    return "\n".join(rules)


_OPEN = {"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"}


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema with additionalProperties false, unless it says something about them itself."""
    return parameters if parameters.keys() & _OPEN else {**parameters, "additionalProperties": False}


def _without_nullable(schema: Any) -> Any:
    """The schema with OpenAPI's `nullable`, which schemas of Python functions use, rewritten as JSON Schema."""
    if isinstance(schema, list):
        return [_without_nullable(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    parts = {key: _without_nullable(part) for key, part in schema.items() if not (key == "nullable" and isinstance(part, bool))}
    return {"anyOf": [parts, {"type": "null"}]} if schema.get("nullable") is True else parts
