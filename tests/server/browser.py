"""A browser at the page, and a server that answers as a script says, for what a real one seldom does."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from linnet.server.routes.page import router

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)
INFO = dict.fromkeys(("parameters", "layers", "hidden", "vocab_size", "context", "file_bytes"), 1) | {
    "name": "m",
    "family": "llama",
    "types": {},
}


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Script:
    """What the server says next: words; then, once `goes_on` is set, the end, an `error` event, or nothing more (`drops`). Or a status
    at once. lists: once it is set, it tells of its models. asked: the bodies of requests."""

    words: list[str] = field(default_factory=lambda: ["Hello", " there."])
    status: int = 200
    error: dict[str, Any] | None = None
    drops: bool = False
    goes_on: threading.Event = field(default_factory=_set)
    lists: threading.Event = field(default_factory=_set)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def events(self) -> AsyncIterator[bytes]:
        for word in self.words:
            token = {"id": 1, "text": word, "logprob": -0.1, "top": [{"id": 1, "text": word, "logprob": -0.1}]}
            yield _event({"text": word, "tokens": [token]})
        await _until(self.goes_on)
        if self.drops:
            raise ConnectionResetError
        if self.error is not None:
            yield _event({"error": self.error})
            return
        text = "".join(self.words)
        done = {"done": True, "response": text, "tokens_generated": len(self.words), "generation_time": 1.0, "finish_reason": "stop"}
        yield _event({**done, "tokens_per_second": 9.0})


async def _until(event: threading.Event) -> None:
    """No thread waits: where the browser leaves, this is cancelled."""
    while not event.is_set():
        await asyncio.sleep(0.01)


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@contextmanager
def scripted() -> Iterator[tuple[str, Script]]:
    """The page's files, and an API of one model that does as the script says; its URL."""
    script, app = Script(), FastAPI()
    app.include_router(router)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        await _until(script.lists)
        return {"data": [{"id": "m"}]}

    @app.get("/api/model_info")
    async def info() -> dict[str, Any]:
        return INFO

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse('linnet_pages{model="m"} 12.0\nlinnet_pages_used{model="m"} 3.0\n')

    @app.post("/api/chat")
    async def chat(request: Request) -> Response:
        script.asked.append(await request.json())
        if script.status != 200:
            return JSONResponse({"error": {"message": "as the script says"}}, script.status)
        return StreamingResponse(script.events(), media_type="text/event-stream")

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", script
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
