"""Logs a line for each request, with an id that the client gets too; answers requests that ended in an unexpected exception."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.server.errors import api_error, error_response, unavailable
from linnet.server.json_body import USER
from linnet.server.metrics import Metrics

logger = logging.getLogger("linnet.server")

_ID_HEADERS = (b"x-request-id", b"request-id")
"""The headers that OpenAI's and Anthropic's clients read the id from."""
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class RequestLog:
    """The outermost guard. Takes a valid `x-request-id` from the client or else makes an id, and sends it with the answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        _request_id.set(request_id)
        status: int | None = None
        started = time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *((name, request_id.encode()) for name in _ID_HEADERS)]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as error:
            answer = error_response(api_error(error), scope)
            if status is None:
                await answer(scope, receive, send_on)
        except asyncio.CancelledError:  # by uvicorn, at the end of the time to drain, and by nobody else
            if status is None:
                cut_off = unavailable("the server was told to end, and this request was not done in time; try again")
                await error_response(cut_off, scope)(scope, receive, send_on)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.count_request(scope, status, seconds)
            facts = {"method": scope.get("method", "WEBSOCKET"), "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
            if USER in scope:
                facts["user"] = scope[USER]
            logger.info("request", extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, the request's id, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := _request_id.get()) is not None:
            line["request_id"] = request_id
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
