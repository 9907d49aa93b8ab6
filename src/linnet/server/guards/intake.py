"""Reads a request's body, whole and within a time limit, before any route runs; ends requests whose client has left."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.server.errors import ApiError, error_response
from linnet.server.options import ServerOptions

_CLOSE = {"connection": "close"}
_GRACE_S = 30.0
"""Seconds past the time limit, which the engine enforces; what takes longer is a client that does not read its answer."""


class Intake:
    """Cancels the request of a client that has gone, which ends its generation and frees its pages, even during prefill."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self.options.body_timeout)
        except asyncio.TimeoutError:
            seconds = f"{self.options.body_timeout:g}"
            error = ApiError(408, f"the request's body did not come within {seconds} seconds; send it faster", headers=_CLOSE)
            await error_response(error, scope)(scope, receive, send)
            return
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        if body is not None:
            await self._run(scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None if the client left before its end. Raises a 413 as soon as a body is known to be too large."""
        most = self.options.max_body_bytes
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        size, pieces = 0, []
        while max(size, int(announced)) <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size <= most and not message.get("more_body", False):
                return b"".join(pieces)
        raise ApiError(413, f"the request's body is past the {most} bytes that this server takes; send less", headers=_CLOSE)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        started = complete = False
        handed = asyncio.Event()

        async def replay() -> Message:
            if handed.is_set():
                await asyncio.Event().wait()  # whoever waits for the client to leave is cancelled when it does
            handed.set()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_on(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        answering = asyncio.ensure_future(self.app(scope, replay, send_on))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            most = self.options.request_timeout + _GRACE_S
            await asyncio.wait({answering, leaving}, timeout=most, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and not complete:
                answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering
            if not started and not leaving.done():
                error = ApiError(
                    504, f"the request took longer than {most:g} seconds", "timeout_error", headers={"x-should-retry": "false"}
                )
                await error_response(error, scope)(scope, receive, send)
        finally:
            answering.cancel()
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
