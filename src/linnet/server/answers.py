"""Errors as responses, on a route or before any; over a WebSocket that is not accepted yet, too."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import Scope

from linnet.server.errors import ApiError


def error_response(error: ApiError, scope: Scope) -> JSONResponse:
    """In the form of the API that the path belongs to."""
    return JSONResponse(error.body(scope["path"]), error.status, dict(error.headers))
