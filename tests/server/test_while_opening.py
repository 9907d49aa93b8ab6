"""A server whose model is yet to open: what it answers meanwhile, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import Server
from victims import connect

SLOW = """
import json
import sys
import time
from pathlib import Path
from linnet.errors import ModelFileError
from linnet.server import listen, models
from linnet.server.settings import read_settings

folder, opened, listener = Path(sys.argv[1]), models._opened, listen._listener

def slowly(*arguments):
    (folder / "opening").touch()
    while not (folder / "go").exists():
        if (folder / "fail").exists():
            raise ModelFileError("no such model")
        time.sleep(0.01)
    return opened(*arguments)

def told(options):
    found = listener(options)
    print(found.getsockname()[1], flush=True)
    return found

models._opened, listen._listener = slowly, told
listen.serve(read_settings(["tiny"], {"port": 0, **json.loads(sys.argv[2])}))
"""
"""A server whose model is opened once the file `go` is there, or fails to be once `fail` is, and which says its port at once."""


@contextmanager
def opening(folder: Path, **options: Any) -> Iterator[Server]:
    """One that is opening its model."""
    log = folder / "log"
    command = [sys.executable, "-c", SLOW, str(folder), json.dumps(options)]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream) as process:
        try:
            assert process.stdout is not None
            server = Server(f"http://127.0.0.1:{int(process.stdout.readline())}", process, log)
            while not (folder / "opening").exists():
                time.sleep(0.01)
            yield server
        finally:
            process.kill()


def begin(server: Server, body: bytes) -> socket.socket:
    """A request whose body the server waits for."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=300)
    head = f"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"expect: 100-continue\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connection


def rest(connection: socket.socket) -> bytes:
    """What still comes before the connection is closed."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


ASKED = json.dumps({"prompt": "x", "max_tokens": 2}).encode()


@pytest.mark.parametrize("told_to_end", [False, True])
def test_a_server_answers_while_its_model_is_opened(tmp_path: Path, told_to_end: bool) -> None:
    """That it is alive and not ready; who asks for the model waits. Told to end, it does not wait for the weights."""
    with opening(tmp_path) as server, server.client() as http:
        assert http.get("/health").status_code == 200
        refused = http.get("/ready")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"]
        if not told_to_end:
            with begin(server, ASKED) as asking:
                asking.sendall(ASKED)
                (tmp_path / "go").touch()
                assert asking.recv(1000).startswith(b"HTTP/1.1 200")
            assert http.get("/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(300) == 0


@pytest.mark.parametrize("in_time", [True, False])
def test_a_server_told_to_end_stays_so_when_its_model_opens(tmp_path: Path, in_time: bool) -> None:
    """Who waits for the model is answered if it opens while requests may end, and else told that the server does."""
    with opening(tmp_path, drain_timeout=3600 if in_time else 1) as server, begin(server, ASKED) as asking:
        asking.sendall(ASKED)
        server.process.send_signal(signal.SIGTERM)
        while True:
            try:
                connect(server).close()
            except OSError:
                break
        if in_time:
            (tmp_path / "go").touch()
        head, _, body = rest(asking).partition(b"\r\n\r\n")
        assert int(head.split()[1]) == (200 if in_time else 503)
        assert in_time or json.loads(body)["error"]["code"] == "unavailable"
        assert server.process.wait(300) == 0
        log = server.log.read_text()
        assert "serving" not in log
        assert "Traceback" not in log


def test_a_model_that_does_not_open_ends_the_server_whoever_dawdles(tmp_path: Path) -> None:
    with opening(tmp_path, drain_timeout=3600, body_timeout=3600) as server, begin(server, ASKED), begin(server, ASKED) as asking:
        asking.sendall(ASKED)
        (tmp_path / "fail").touch()
        assert b"model_unusable" in rest(asking)
        assert server.process.wait(300) == 1
