"""Errors as clients see them: a status, and the body that the client's library expects. They reveal nothing about this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import JSONResponse
from starlette.types import Scope
from typing_extensions import TypedDict

from linnet.errors import (
    ChatTemplateError,
    ClosedError,
    ContextLengthError,
    DeadlineError,
    InvalidRequestError,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
    QueueFullError,
)

logger = logging.getLogger("linnet.server")

RETRY_AFTER_S = 1


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """As OpenAI's clients expect it."""

    error: ErrorDetail


class AnthropicErrorDetail(TypedDict):
    type: str
    message: str


class AnthropicErrorBody(TypedDict):
    """As Anthropic's clients expect it."""

    type: Literal["error"]
    error: AnthropicErrorDetail


def failures(body: Any) -> dict[int | str, dict[str, Any]]:
    """The entries for error responses in the OpenAPI document."""
    return {
        "4XX": {"model": body, "description": "a mistake in the request, which the message names"},
        "5XX": {"model": body, "description": "the server could not, and says whether to try again"},
    }


@dataclass
class ApiError(Exception):
    """An answer that is an error. type, code and param: as OpenAI's clients read them; param: the field at fault."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def openai(self) -> ErrorBody:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self) -> AnthropicErrorBody:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kinds |= {413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def body(self, path: str) -> Mapping[str, Any]:
        """The body, in the form of the API that the path belongs to."""
        return self.anthropic() if path.startswith("/v1/messages") else self.openai()


def error_response(error: ApiError, scope: Scope) -> JSONResponse:
    """The response for an error, inside a route or before one; also for a WebSocket that is not accepted yet."""
    return JSONResponse(error.body(scope["path"]), error.status, dict(error.headers))


def api_error(error: BaseException) -> ApiError:
    """The error that a client gets for an exception. An unexpected exception is logged with its traceback, and the client learns only
    that something failed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, ChatTemplateError):
        return ApiError(400, str(error), code="chat_template", param="messages")
    if isinstance(error, (InvalidRequestError, OutOfMemoryError)):
        return ApiError(400, str(error))
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "rate_limit_error", "queue_full", headers={"retry-after": str(RETRY_AFTER_S)})
    if isinstance(error, DeadlineError):  # trying again would take as long
        return ApiError(504, str(error), "timeout_error", "deadline_exceeded", headers={"x-should-retry": "false"})
    if isinstance(error, ClosedError):
        return unavailable("the model was closed while the request ran; try again")
    logger.error("a request failed: %s", error, exc_info=error)
    if isinstance(error, (ModelFileError, MissingDependencyError)):
        return ApiError(500, "the model cannot be opened; the server's log says why", "server_error", "model_unusable")
    return ApiError(500, "the server failed at this request; its log says why, under the request's id", "server_error", "internal_error")


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, "server_error", "unavailable", headers={"retry-after": str(RETRY_AFTER_S)})


_JSON_NAMES = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter", "json_invalid": "invalid_json"}


def validation_error(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The error for the mistakes that pydantic found. It reports the deepest in the body, and rather not a wrong type: among the members
    of a union, this is the mistake of the one that came nearest to matching."""
    if isinstance(body, bytes):  # not read as JSON
        return ApiError(
            400, "the body is not declared as JSON; send the header content-type: application/json", code="invalid_content_type"
        )
    error = max(errors, key=lambda error: (len(_place(error["loc"], body)), not error["type"].endswith("_type")))
    kind, place = str(error["type"]), _place(error["loc"], body)
    param = ".".join(place) or None
    if kind == "json_invalid":
        param, message = None, f"the body is not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    elif kind == "extra_forbidden":
        message = f"unknown field {param!r}; leave it out"
    elif kind.startswith("model_") and not place:
        message = f"the body is {_JSON_NAMES[type(body)]}; send an object that names the fields of the request"
    elif kind == "missing":
        message = f"the field {param!r} is missing" if param else "the request has no body; send JSON with content-type: application/json"
    else:
        message = f"{param or 'the body'}: {error['msg']}"
    return ApiError(400, message, code=_CODES.get(kind, "invalid_value"), param=param)


def _place(location: Sequence[Any], body: Any) -> list[str]:
    """The path of names and indices to a mistake, without the names of the types that pydantic tried."""
    place = []
    for depth, part in enumerate(location):
        if depth == 0 and part in ("body", "query", "path"):
            continue
        inside = (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int) and part < len(body))
        if inside:
            body = body[part]
        if inside or (depth == len(location) - 1 and isinstance(body, dict)):  # the last may be what is missing
            place.append(str(part))
    return place
