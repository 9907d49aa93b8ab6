"""WebSocket /api/ws: what POST /api/chat takes and streams, one answer after another, each of which may be cancelled."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from linnet.errors import LinnetError
from linnet.server.errors import ApiError, api_error, validation_error
from linnet.server.events import refuse_beams
from linnet.server.json_body import parse
from linnet.server.routes.simple import SimpleChat, answer_pieces
from linnet.server.service import Service, ServiceOf

router = APIRouter()

_CANCELLED = {"done": True, "cancelled": True}


@router.websocket("/api/ws")
async def converse(socket: WebSocket, service: ServiceOf) -> None:
    """`{"prompt": ...}` is answered by `{"text": ...}` and `{"done": true, ...}`; `{"cancel": true}` ends the answer that runs."""
    await socket.accept()
    answering: asyncio.Task[None] | None = None
    try:
        while True:
            message = await _next(socket)
            busy = answering is not None and not answering.done()
            try:
                asked = _read(message, service)
                if asked is None:
                    if answering is not None and busy:
                        answering.cancel()
                        with suppress(asyncio.CancelledError):
                            await answering
                        await socket.send_json(_CANCELLED)
                elif busy:
                    raise ApiError(409, "an answer runs; wait for it, or send cancel: true")
                else:
                    answering = asyncio.create_task(_answer(socket, asked, service))
            except (ApiError, LinnetError) as error:
                await socket.send_json(api_error(error).openai())
    except WebSocketDisconnect:
        pass
    finally:
        if answering is not None:
            answering.cancel()


async def _next(socket: WebSocket) -> bytes:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text = message.get("text")
    return message.get("bytes") or b"" if text is None else text.encode("utf-8", "surrogatepass")


def _read(message: bytes, service: Service) -> SimpleChat | None:
    """What is asked, or None for a wish to cancel. Raises ApiError."""
    try:
        content: Any = parse(message, service.options.max_json_depth)
        return None if content == {"cancel": True} else SimpleChat.model_validate(content)
    except json.JSONDecodeError as error:
        raise ApiError(400, f"the message is not valid JSON: {error.msg}", code="invalid_json") from None
    except ValidationError as error:
        raise validation_error(error.errors(), content) from None


async def _answer(socket: WebSocket, asked: SimpleChat, service: Service) -> None:
    try:
        params = asked.check(service)
        if asked.stream is False:
            raise ApiError(400, "over a WebSocket every answer is streamed; leave stream out", param="stream")
        refuse_beams(params, "a WebSocket", "ask a route of HTTP without stream")
        async with aclosing(answer_pieces(asked, params, service)) as pieces:
            async for piece in pieces:
                await socket.send_json(piece)
    except WebSocketDisconnect:
        pass
    except Exception as error:
        with suppress(WebSocketDisconnect):
            await socket.send_json(api_error(error).openai())
