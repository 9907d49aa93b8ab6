"""Python functions as tools: from the signature, the type hints and a docstring in Google's style, as transformers'
`get_json_schema` does it."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from linnet.errors import InvalidRequestError
from linnet.text.tool_calls.tools import MAX_NAME, NAME

_TYPES: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_SCALARS = (int, float, str, bool, type(None))
_HEADINGS = ("Args:", "Returns:", "Raises:")
_ENTRY = re.compile(r"(\s*)(\w+)(?: *\([^)]*\))?:\s*(.*)")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


class _NoSchemaError(Exception):
    """What a type hint says has no JSON schema."""


def tool_of(function: Callable[..., Any]) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "description", "parameters", "return"}} of a Python function.

    It needs a docstring, a type hint for every parameter, and a description of each under `Args:`, which may end with
    `(choices: ["a", "b"])`. Hints: int, float, str, bool, None, Any, list, dict, tuple, Literal, Enum, Optional and unions of them.
    Raises InvalidRequestError for whatever is missing, or has no JSON schema.
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidRequestError(f"tool {str(name)[:MAX_NAME]!r}: a function needs a name of letters, digits and '_'; define one with def")
    if not inspect.isroutine(function):
        raise InvalidRequestError(f"tool {name}: it is no function but a {type(function).__name__}; define one with def")
    doc = inspect.getdoc(function)
    if not doc:
        raise InvalidRequestError(f"tool {name}: it has no docstring, which is what the model is told; write one, with Args:")
    sections = _sections(doc)
    described = _entries(sections["Args:"])
    try:
        hints = get_type_hints(function)
    except Exception as error:  # a hint is evaluated: any code may run
        raise InvalidRequestError(f"tool {name}: its type hints cannot be read ({error})") from None
    properties, required = {}, []
    for parameter in _parameters(function, name):
        if parameter.name not in hints:
            raise InvalidRequestError(f"tool {name}: parameter {parameter.name!r} has no type hint; give it one")
        if parameter.name not in described:
            raise InvalidRequestError(f"tool {name}: parameter {parameter.name!r} is not described under Args: in the docstring")
        properties[parameter.name] = _described(name, parameter.name, hints[parameter.name], described[parameter.name])
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    made: dict[str, Any] = {"name": name, "description": "\n".join(sections[""]).strip(), "parameters": parameters}
    if (result := _result(hints, sections["Returns:"])) is not None:
        made["return"] = result
    return {"type": "function", "function": made}


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:  # of functions written in C, some do not tell
        raise InvalidRequestError(f"tool {name}: its parameters cannot be read ({error}); define a function around it") from None
    if parameters and parameters[0].name in ("self", "cls") and parameters[0].annotation is inspect.Parameter.empty:
        del parameters[0]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidRequestError(f"tool {name}: parameter {parameter.name!r} has no name that a call could give; use plain parameters")
    return parameters


def _described(tool: str, parameter: str, hint: Any, description: str) -> dict[str, Any]:
    """The schema of a parameter, with its description and the choices that this ends with."""
    try:
        schema = _schema(hint)
    except _NoSchemaError as error:
        raise InvalidRequestError(
            f"tool {tool}: parameter {parameter!r} is a {error}, which has no JSON schema; give the tool as a dict with a schema of yours"
        ) from None
    if choices := _CHOICES.search(description):
        try:
            schema["enum"] = [choice.strip() if isinstance(choice, str) else choice for choice in json.loads(choices[1])]
        except (ValueError, TypeError):
            raise InvalidRequestError(f"tool {tool}: the choices of {parameter!r} are no JSON list: {choices[1][:60]}") from None
        description = description[: choices.start()].strip()
    return {**schema, "description": description}


def _result(hints: dict[str, Any], lines: list[str]) -> dict[str, Any] | None:
    """What the function returns, which most templates leave out; None where the hint says nothing that JSON can."""
    try:
        schema = _schema(hints["return"])
    except (KeyError, _NoSchemaError):
        return None
    text = "\n".join(line.strip() for line in lines).strip()
    return {**schema, "description": text} if text else schema


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint, [member.value for member in hint])
    if origin is None:
        try:
            return dict(_TYPES[hint])
        except (KeyError, TypeError):
            raise _NoSchemaError(getattr(hint, "__name__", hint)) from None
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is Literal:
        return _enum(hint, list(arguments))
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [_schema(argument) for argument in arguments]}
    raise _NoSchemaError(hint)


def _union(hints: tuple[Any, ...]) -> dict[str, Any]:
    schemas = [_schema(hint) for hint in hints if hint is not type(None)]
    if len(schemas) == 1:
        [schema] = schemas
    elif all(list(schema) == ["type"] and isinstance(schema["type"], str) for schema in schemas):
        names = sorted({schema["type"] for schema in schemas})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in hints else schema


def _enum(hint: Any, values: list[Any]) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise _NoSchemaError(hint)
    names = list(dict.fromkeys(_TYPES[type(value)]["type"] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _sections(doc: str) -> dict[str, list[str]]:
    """The lines of a docstring under each heading; under "", what stands before the first."""
    sections: dict[str, list[str]] = {heading: [] for heading in ("", *_HEADINGS)}
    current = ""
    for line in doc.strip().splitlines():
        if line.strip() in _HEADINGS:
            current = line.strip()
        else:
            sections[current].append(line)
    return sections


def _entries(lines: list[str]) -> dict[str, str]:
    """`name: description` entries; a line that is indented deeper goes on with the one above."""
    entries: dict[str, str] = {}
    name, indent = "", -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        entry = _ENTRY.fullmatch(line)
        if entry and (indent < 0 or depth <= indent):
            indent, name = depth, entry[2]
            entries[name] = entry[3].strip()
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries
