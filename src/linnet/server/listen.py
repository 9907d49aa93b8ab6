"""Listening: a socket, uvicorn, and signals."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from linnet.errors import InvalidRequestError
from linnet.server.app import create_app
from linnet.server.guards.request_log import JsonLines
from linnet.server.options import ServerOptions
from linnet.server.settings import Settings

SWITCH_INTERVAL_S = 0.0005
"""After so long a thread that computes gives way to the one that answers; Python's own is ten times as long."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C, then lets running requests end. Raises InvalidRequestError where it cannot listen."""
    _log_lines()
    listener = _listener(settings.server)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        create_app(settings),
        http="h11",  # bounds headers by itself
        h11_max_incomplete_event_size=settings.server.max_header_bytes,
        ws_max_size=settings.server.max_body_bytes,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.server.drain_timeout) + 1,
    )
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    print(f"linnet: serving {', '.join(model.name for model in settings.models)} at http://{name}:{port}", file=sys.stderr, flush=True)
    _Server(config).run(sockets=[listener])


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
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: who is told to leave, and does, leaves with 0."""
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
