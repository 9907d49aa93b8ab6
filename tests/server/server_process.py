"""`linnet serve` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from linnet.server.app import create_app
from linnet.server.service import Service

COMMAND = [sys.executable, "-m", "linnet.cli.main", "serve"]


@dataclass
class Server:
    """A running server. log: its standard error."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Server]:
    """`linnet serve ARGUMENTS` on a free port, killed at the end if it still runs."""
    log = folder / "server.log"
    command = [*COMMAND, *arguments, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LINNET_")}
    with log.open("wb") as stream, subprocess.Popen(command, stderr=stream, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            yield Server(_address(process, log), process, log)
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for the line that names it."""
    for _ in range(6000):  # of 50 ms; a server that ends is seen at once
        found = re.search(r"at (http://\S+)", log.read_text())
        if found:
            return found.group(1)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text()}")


def raw_request(server: Server, head: str | bytes, timeout: float = 300) -> int:
    """Sends these bytes as they are; the status of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        connection.sendall(head if isinstance(head, bytes) else head.encode("latin-1"))
        answer = b""
        while b"\r\n" not in answer and (data := connection.recv(4096)):
            answer += data
    return int(answer.split()[1])


@contextmanager
def in_process(service: Service) -> Iterator[str]:
    """A server in a thread of this process, for tests that reach into it; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    started, over = threading.Event(), threading.Event()

    async def serve() -> None:
        uvicorn_server = uvicorn.Server(uvicorn.Config(create_app(service), lifespan="off", log_config=None))
        async with service.running():
            serving = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
            started.set()
            await asyncio.to_thread(over.wait)
            uvicorn_server.should_exit = True
            await serving

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(60)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        thread.join(60)
