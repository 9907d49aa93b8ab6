"""Listening: a socket, uvicorn, and signals."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType

import uvicorn

from linnet.errors import InvalidRequestError
from linnet.server.app import create_app
from linnet.server.connection import patient_for
from linnet.server.guards.request_log import JsonLines
from linnet.server.options import ServerOptions
from linnet.server.service import Service
from linnet.server.settings import Settings

SWITCH_INTERVAL_S = 0.0005
"""How long one thread may hold the interpreter lock before another gets it: a tenth of Python's default, so that answers leave soon."""

FAREWELL_S = 1
"""How long connections have to end after the server failed."""


def serve(settings: Settings, ready: Callable[[str], object] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C, then lets running requests end. ready: called with the address once the server listens. Raises
    InvalidRequestError if it cannot listen; with a single model, also whatever opening the model raises."""
    _log_lines()
    listener = _listener(settings.server)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.run(_serve(settings, listener, ready))


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[str], object] | None) -> None:
    """Answers from the start, so that /ready can report that the only model is still being opened; requests for it wait."""
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    service = Service(settings)
    server = _Server(_config(service), service)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.end, serving)
        opening = asyncio.create_task(stack.enter_async_context(service.running()))
        await asyncio.wait({serving, opening}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await serving
            os._exit(0)  # told to end, and it has: a thread that reads weights cannot be stopped, and nobody waits for them now
        await opening
        if server.should_exit:  # told to end meanwhile
            service.ready = False
        else:
            print(f"linnet: serving {', '.join(service.models.names)} at {address}", file=sys.stderr, flush=True)
            if ready is not None:
                ready(address)
        await serving


def _config(service: Service) -> uvicorn.Config:
    options = service.options
    return uvicorn.Config(
        create_app(service),
        lifespan="off",
        http=patient_for(options.body_timeout),  # h11, which bounds headers by itself
        h11_max_incomplete_event_size=options.max_header_bytes,
        ws_max_size=options.max_body_bytes,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(options.drain_timeout),
    )


def _log_lines() -> None:
    """Everything that the server and uvicorn log, as lines of JSON on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("linnet", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(min(logger.level or level, level))
        logger.propagate = False


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.ready = False
        super().handle_exit(sig, frame)

    async def end(self, serving: asyncio.Task[None]) -> None:
        """Called when the only model could not be opened: requests that waited for it are answered, and the server ends at once."""
        self.config.timeout_graceful_shutdown = FAREWELL_S
        self.should_exit = True
        await serving

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but does not raise the signal again afterwards: a server that was told to end, and did, exits with 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _listener(options: ServerOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidRequestError(
            f"cannot listen on {options.host} port {options.port} ({error.strerror or error}); choose another"
        ) from None
    listener.set_inheritable(False)
    return listener
