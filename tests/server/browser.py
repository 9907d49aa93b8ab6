"""A browser at the page, and a server that answers as a script says, for what a real one seldom does."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from playwright.sync_api import expect
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from linnet.server.guards.keys import Keys
from linnet.server.routes.page import router

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)
INFO = {"name": "m", "family": "llama", "parameters": 1_100_048_384, "layers": 22, "hidden": 2048, "vocab_size": 32_000, "context": 2048}
INFO |= {"file_bytes": 637_699_456, "types": {"q4_0": 606_534_656, "f32": 368_640}, "has_chat_template": True, "sampling": {"top_k": 40}}


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


ANSWERED = ".message.assistant footer"
PATIENCE_MS = 120_000
"""Only what fails ever waits so long."""

Page = Any


def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """The page there, in a browser of its own, once it knows the models; at the end it must have thrown nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    page.locator("#model option").first.wait_for(state="attached")
    yield page
    context.close()
    assert not faults


def send(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.keyboard.press("Enter")


def ask(page: Page, text: str, answers: int = 1) -> None:
    """Sends it, and waits until there are so many answers, whole or failed."""
    send(page, text)
    expect(page.locator(ANSWERED)).to_have_count(answers)


def last_answer(page: Page) -> Any:
    return page.locator(".message.assistant .body").last


@dataclass
class Script:
    """What the server says next: words; then, once `goes_on` is set, the end, an `error` event, or nothing more (`drops`). Or a status
    at once. lists: once it is set, it tells of its models. metrics: the status of its counters, by which one more page is in use each
    time. asked: the bodies of requests."""

    words: list[str] = field(default_factory=lambda: ["Hello", " there."])
    status: int = 200
    error: dict[str, Any] | None = None
    drops: bool = False
    goes_on: threading.Event = field(default_factory=_set)
    lists: threading.Event = field(default_factory=_set)
    metrics: int = 200
    pages_used: int = 0
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


def _refused(status: int) -> Response:
    return JSONResponse({"error": {"message": "as the script says"}}, status)


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@contextmanager
def scripted(keys: Sequence[str] = ()) -> Iterator[tuple[str, Script]]:
    """The page's files, and an API of one model that does as the script says, behind keys if there are any; its URL."""
    script, app = Script(), FastAPI()
    app.add_middleware(Keys, keys=keys)
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
        if script.metrics != 200:
            return _refused(script.metrics)
        script.pages_used += 1
        text = f'linnet_pages{{model="m"}} 200.0\nlinnet_pages_used{{model="m"}} {script.pages_used}.0\nlinnet_pages{{model="other"}} 1.0\n'
        return PlainTextResponse(text + "process_resident_memory_bytes 1.25e+09\n")

    @app.post("/api/chat")
    async def chat(request: Request) -> Response:
        script.asked.append(await request.json())
        if script.status != 200:
            return _refused(script.status)
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
