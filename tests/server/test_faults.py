"""What goes wrong beside a stream that must not notice: clients that vanish, dawdle or talk nonsense, steps that fail, a signal to end."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_process import Server, in_process, running
from victims import VICTIM, connect, counter, expected, no_unexplained_failures, request, victims, wait_until_idle

from linnet.ops.native import NativeOps
from linnet.server.service import Service
from linnet.server.settings import read_settings


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, since its counters must add up."""
    with running(tmp_path_factory.mktemp("faults"), "tiny", "--max-batch", "8", "--max-queue", "40", "--body-timeout", "2") as server:
        yield server


def test_connections_dropped_at_random_moments(own: Server) -> None:
    """In the head, in the body, in the queue, in a prefill of a thousand tokens, in an answer: pages come back and nobody else notices."""
    draw = random.Random(5)
    long = {"model": "tiny", "prompt": "word " * 450, "max_tokens": 400, "ignore_eos": True}
    begun = 0
    with victims(own):
        for i in range(200):
            body = {**long, "stream": bool(i % 2), "n": 1 + i % 3, "seed": i}
            if i % 5 == 0:
                body["prompt"] = f"{i} " + str(body["prompt"])  # not in the cache
            data = request("/v1/completions", body)
            with connect(own) as connection:
                connection.sendall(data[: draw.randrange(len(data))] if i % 4 == 0 else data)
                if i % 8 == 1:
                    begun += connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"  # its answer runs
                time.sleep(draw.random() * 0.02)
                if i % 3 == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a farewell
    wait_until_idle(own)
    assert counter(own, 'linnet_outcomes_total{model="tiny",outcome="cancelled"}') >= begun > 0
    no_unexplained_failures(own)


def test_half_a_body_and_slow_readers(own: Server) -> None:
    long = {"model": "tiny", "prompt": "1", "max_tokens": 900, "ignore_eos": True, "stream": True, "logprobs": 20}
    with victims(own):
        half, slow = [connect(own) for _ in range(20)], [connect(own) for _ in range(6)]
        for connection in half:
            connection.sendall(request("/v1/completions", long)[:-30])
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request("/v1/completions", long))  # and reads nothing of its answer
        for connection in half:
            assert connection.recv(12).startswith(b"HTTP/1.1 408")
        assert httpx.get(f"{own.url}/health", timeout=60).status_code == 200
        for connection in (*half, *slow):
            connection.close()
    wait_until_idle(own)


def test_a_full_queue_says_so(own: Server) -> None:
    client = openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0)
    held = [connect(own) for _ in range(60)]
    try:
        for connection in held:
            connection.sendall(request("/v1/completions", {**VICTIM, "stream": True}))
        until = time.monotonic() + 60
        while not counter(own, "linnet_refused_total") and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="tiny", prompt="x", max_tokens=1)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.code == "queue_full"
    finally:
        for connection in held:
            connection.close()
    wait_until_idle(own)


def test_a_deadline(own: Server) -> None:
    client = openai.OpenAI(base_url=f"{own.url}/v1", api_key="none")
    with pytest.raises(openai.InternalServerError, match="within its timeout of 0\\.01 seconds") as late:
        client.completions.create(model="tiny", prompt="x", max_tokens=900, extra_body={"timeout": 0.01, "ignore_eos": True})
    assert late.value.status_code == 504
    wait_until_idle(own)


def test_a_signal_under_load_lets_answers_end(tmp_path: Path) -> None:
    with running(tmp_path, "tiny") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        body = {name: value for name, value in VICTIM.items() if name != "ignore_eos"}
        streams = [iter(client.completions.create(**body, stream=True, extra_body={"ignore_eos": True})) for _ in range(4)]
        texts = [next(stream).choices[0].text for stream in streams]
        with socket.create_connection(("127.0.0.1", server.port)):  # one that is open, and says nothing
            server.process.send_signal(signal.SIGTERM)
            texts = [text + "".join(chunk.choices[0].text for chunk in stream) for text, stream in zip(texts, streams, strict=True)]
            assert texts == [expected()] * 4
            assert server.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        no_unexplained_failures(server)


def test_what_does_not_end_in_time_is_ended(tmp_path: Path) -> None:
    """A client that does not read cannot keep the server from ending."""
    with running(tmp_path, "tiny", "--drain-timeout", "1") as server, connect(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(request("/v1/completions", {**VICTIM, "stream": True, "logprobs": 20, "n": 16}))
        assert slow.recv(1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_a_step_that_fails_takes_only_its_own_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients hear that it failed and no more; the log has the cause; the next request is answered."""
    fails = threading.Event()
    stepper = NativeOps.stepper

    def faulty(*arguments: Any, **named: Any) -> Any:
        step = stepper(*arguments, **named)

        def run(*batch: Any) -> Any:
            if fails.is_set():
                raise RuntimeError("injected, at 0x7f00 in /home/somebody")
            return step(*batch)

        return run

    monkeypatch.setattr(NativeOps, "stepper", faulty)
    with in_process(Service(read_settings(["tiny"], {}))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8, "seed": 1}
        before = client.completions.create(**body).choices[0].text
        stream = iter(client.completions.create(**{**body, "max_tokens": 900}, stream=True, extra_body={"ignore_eos": True}))
        next(stream)
        fails.set()
        with pytest.raises(openai.APIError, match="its log says why") as told:
            list(stream)
        with pytest.raises(openai.InternalServerError, match="its log says why"):
            client.completions.create(**body)
        assert httpx.get(f"{url}/health", timeout=60).status_code == 503
        fails.clear()
        assert client.completions.create(**body).choices[0].text == before
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
    assert "injected" not in str(told.value)
    assert "injected" in caplog.text
