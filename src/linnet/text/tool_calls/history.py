"""Calls and their results in a conversation, as chat templates take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.text.tool_calls.tools import read_arguments


def with_calls_read(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The messages, each call as {"id", "type": "function", "function": {"name", "arguments": a dict}}: OpenAI's clients send arguments
    as a text of JSON, which templates would quote once more. Messages without calls are as they were.

    Raises InvalidRequestError for a call that is none, and for a tool's message that answers none of the calls before it.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        return messages  # refused where messages are checked
    read: list[Mapping[str, Any]] = []
    ids: set[Any] | None = None  # of the calls that may be answered here; None: there are none
    for i, message in enumerate(messages):
        if message.get("role") == "tool":
            _check_answer(message, ids, f"messages[{i}]")
        else:
            ids = None
        if "tool_calls" in message:
            message = _with_calls(message, f"messages[{i}]")
            ids = {call.get("id") for call in message["tool_calls"]} if "tool_calls" in message else None
        read.append(message)
    return read


def _check_answer(message: Mapping[str, Any], ids: set[Any] | None, where: str) -> None:
    if ids is None:
        raise InvalidRequestError(
            f"{where} is a tool's, and no message with tool_calls stands before it; put the assistant's message that called the tool there"
        )
    id = message.get("tool_call_id")
    if id is not None and (not isinstance(id, (str, int)) or id not in ids):
        raise InvalidRequestError(f"{where}: no call before it has the id {str(id)[:60]!r}; tool_call_id names the call that it answers")


def _with_calls(message: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    calls = message["tool_calls"]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    if calls is None or (isinstance(calls, Sequence) and len(calls) == 0):  # some templates look for the key alone
        return rest
    if message.get("role") != "assistant":
        raise InvalidRequestError(f"{where}: only an assistant's message has tool_calls")
    if isinstance(calls, (str, bytes)) or not isinstance(calls, Sequence):
        raise InvalidRequestError(f"{where}: tool_calls must be a list")
    read = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return {**rest, "content": rest.get("content") or "", "tool_calls": read}


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function" or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{where} must be {{'type': 'function', 'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = read_arguments(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise InvalidRequestError(f"{where} ({function['name']}): its arguments are no JSON object; send them as the model wrote them")
    if not isinstance(call.get("id"), (str, int, type(None))):
        raise InvalidRequestError(f"{where} ({function['name']}): its id must be a text, not a {type(call['id']).__name__}")
    made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return made if call.get("id") is None else {"id": call["id"], **made}
