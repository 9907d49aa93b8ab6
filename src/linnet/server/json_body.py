"""Parses JSON strictly (RFC 8259) and to a bounded depth: no NaN, no broken UTF-8 or UTF-16, no name twice in an object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

USER = "linnet.user"
"""Key in a request's scope for the user that its body names, for the log."""

MAX_FIELDS = 50_000
"""Limit for all objects of a body together: every unknown field is reported, and megabytes of JSON can hold millions."""

# Each is over after one pass, whatever the text: outside strings JSON has no backslash, and one that does not end reaches to the end.
_ESCAPES = re.compile(r"\\.", re.DOTALL)
_STRINGS = re.compile(r'"[^"]*"?')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BRACKETS = re.compile(r"[\[\]{}]")


class JsonRoute(APIRoute):
    """A route whose body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return strict


class _JsonRequest(Request):
    async def json(self) -> Any:
        content = parse(await self.body(), self.app.state.service.options.max_json_depth)
        if (user := _user(content)) is not None:
            self.scope[USER] = user[:256]
        return content


def _user(content: Any) -> str | None:
    """The user that a body names: OpenAI's clients in `user`, Anthropic's in `metadata.user_id`."""
    if not isinstance(content, dict):
        return None
    metadata = content.get("metadata")
    given = content.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
    return given if isinstance(given, str) else None


def parse(body: bytes, max_depth: int) -> Any:
    """Raises json.JSONDecodeError, which says what is wrong and where."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"the body is not UTF-8 at byte {error.start}", "", error.start) from None
    outside = _STRINGS.sub("", _ESCAPES.sub("", text))
    if (fields := outside.count(":")) > MAX_FIELDS:
        raise json.JSONDecodeError(f"the body has {fields} fields and {MAX_FIELDS} are allowed", "", 0)
    if (depth := _depth(outside)) > max_depth:
        raise json.JSONDecodeError(f"the body is nested {depth} levels deep and {max_depth} are allowed", "", 0)
    try:
        content = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # what no answer could repeat
        return content
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as error:
        raise json.JSONDecodeError(f"a text has a lone surrogate (U+{ord(error.object[error.start]):04X}); remove it", "", 0) from None
    except (ValueError, RecursionError) as error:  # such as an integer of 5,000 digits
        raise json.JSONDecodeError(str(error), "", 0) from None


def _depth(outside: str) -> int:
    """How deep brackets outside strings are nested, found without parsing, since the parser must not see what is nested too deeply."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(outside):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object names a field twice")
    return content
