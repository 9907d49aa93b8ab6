"""Tools that a model may call, as callers describe them, and the calls that it makes."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from linnet.errors import InvalidRequestError, shortened

MAX_TOOLS = 128
MAX_NAME = 128
NAME_SIGNS = frozenset(string.ascii_letters + string.digits + "_.-")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

Tool: TypeAlias = Mapping[str, Any] | Callable[..., Any]
"""`{"type": "function", "function": {"name", "description", "parameters": a JSON schema}}`, or a Python function."""

ToolChoice: TypeAlias = str | Mapping[str, Any]
""""auto", "none", "required", the name of a tool, or `{"type": "function", "function": {"name"}}`."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_FIELDS = {"name", "description", "parameters", "return", "strict"}


@dataclass(frozen=True)
class ToolCall:
    """A call that a model made. arguments_json: a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments_json: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, by name."""
        return read_arguments(self.arguments_json)

    @property
    def message(self) -> dict[str, Any]:
        """The call as an assistant's message holds it, among its `tool_calls`."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments of a call from the JSON object that a model wrote. An escape that stands for half a character (an unpaired surrogate,
    which JSON allows and UTF-8 cannot hold) is read as U+FFFD. Raises ValueError or RecursionError for what is no JSON object."""
    arguments: Any = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(arguments, dict):
        raise ValueError("not a JSON object")
    if _SURROGATE.search(text):
        halves = json.dumps(arguments, ensure_ascii=False).encode("utf-16", "surrogatepass")
        arguments = json.loads(halves.decode("utf-16", "replace"))
    checked: dict[str, Any] = arguments
    return checked


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def read_tools(given: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as chat templates take them: each {"type": "function", "function": {"name", "description", "parameters"}}.

    Raises InvalidRequestError that says which tool is wrong and why.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise InvalidRequestError("tools must be a list of functions, or of {'type': 'function', 'function': {...}}")
    if len(given) > MAX_TOOLS:
        raise InvalidRequestError(f"there are {len(given)} tools; the most is {MAX_TOOLS}")
    tools = [_read_tool(tool, f"tools[{i}]") for i, tool in enumerate(given)]
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(f"there are two tools called {name!r}; rename one")
    return tools


def _read_tool(tool: Any, where: str) -> dict[str, Any]:
    if callable(tool):
        from linnet.text.tool_calls.functions import tool_of

        return tool_of(tool)
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
        raise InvalidRequestError(f"{where} must be a function, or {{'type': 'function', 'function': {{'name': ..., 'parameters': ...}}}}")
    if tool.get("type") != "function" or len(tool) > 2:
        raise InvalidRequestError(f"{where}: only type 'function' and its 'function' are understood, not {shortened(dict(tool))}")
    function = dict(tool["function"])
    if unknown := sorted(map(str, function.keys() - _FIELDS)):
        raise InvalidRequestError(f"{where}: a function has no {unknown[0]!r}; it has {', '.join(sorted(_FIELDS))}")
    name, description = function.get("name"), function.setdefault("description", "")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidRequestError(f"{where}: the name must be 1 to {MAX_NAME} letters, digits, '_', '-' or '.', not {shortened(name)}")
    if not isinstance(description, str):
        raise InvalidRequestError(f"{where} ({name}): the description must be a text, not {shortened(description)}")
    parameters = dict(function.get("parameters") or {}) if isinstance(function.get("parameters") or {}, Mapping) else None
    if parameters is None or parameters.setdefault("type", "object") != "object":
        raise InvalidRequestError(f"{where} ({name}): parameters must be a JSON schema of type 'object'")
    if not isinstance(parameters.setdefault("properties", {}), Mapping):
        raise InvalidRequestError(f"{where} ({name}): the properties of its parameters must be an object")
    if not isinstance(function.pop("strict", None), (bool, type(None))):
        raise InvalidRequestError(f"{where} ({name}): strict must be true or false")
    return {"type": "function", "function": {**function, "parameters": parameters}}


def strict_names(given: Sequence[Tool]) -> list[str]:
    """Those of tools that were read whose arguments shall satisfy their schemas by all means."""
    functions = [tool["function"] for tool in given if isinstance(tool, Mapping)]
    return [function["name"] for function in functions if function.get("strict")]


def read_tool_choice(given: ToolChoice, names: Sequence[str]) -> str:
    """ "auto", "none", "required", or the name of the tool that is to be called, after a space. Raises InvalidRequestError."""
    if given in ("auto", "none"):
        return str(given)
    if not names:
        raise InvalidRequestError(f"tool_choice is {shortened(given)}, and there are no tools; give tools=, or leave it out")
    if given == "required":
        return "required"
    name: Any = given
    if isinstance(given, Mapping):
        function = given.get("function")
        name = function.get("name") if given.get("type") == "function" and isinstance(function, Mapping) else None
    if name not in names:
        raise InvalidRequestError(
            f"tool_choice is {shortened(given)}; it must be 'auto', 'none', 'required', or name one of {', '.join(names)}"
        )
    return f" {name}"
