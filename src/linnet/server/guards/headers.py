"""Limits the size of a request's line and headers."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from linnet.server.errors import ApiError, error_response

MAX_HEADERS = 256


class Headers:
    """Refuses with 431 headers longer than `limit` bytes, or more than 256 of them. h11 itself stops reading endless headers; this is for
    those that arrive in one piece."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = scope["headers"]
            size = sum(len(name) + len(value) + 4 for name, value in headers) + len(scope["raw_path"]) + len(scope["query_string"])
            if size > self.limit or len(headers) > MAX_HEADERS:
                message = f"the request has {len(headers)} headers of {size} bytes; {MAX_HEADERS} and {self.limit} are allowed"
                await error_response(ApiError(431, message, headers={"connection": "close"}), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)
