"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from linnet.engine.params import SamplingParams
from linnet.errors import InvalidRequestError
from linnet.server.errors import ApiError, api_error

DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event; with a name, if the protocol names its events."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n").encode()


def refuse_beams(params: SamplingParams, what: str, instead: str) -> None:
    """As `SamplingParams.refuse_beams`, but the error also names the field."""
    try:
        params.refuse_beams(what, instead)
    except InvalidRequestError as error:
        raise ApiError(400, str(error), param="num_beams") from None


class EventStream(Response):
    """Sends events as they come. It waits for the first event before it sends the status, so that a refused request gets a status of its
    own; a later failure is sent as the last event. Raises ApiError if params ask for something that cannot be streamed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], params: SamplingParams) -> None:
        refuse_beams(params, "a stream", "ask without stream")
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events) as events:
            first = await anext(events, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except Exception as error:
                body = api_error(error).body(scope["path"])
                name = "error" if body.get("type") == "error" else None  # Anthropic's clients ignore events without a name
                await send({"type": "http.response.body", "body": event(body, name), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
