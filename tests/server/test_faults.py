"""What goes wrong beside a stream that must not notice: clients that vanish, dawdle or talk nonsense, steps that fail, a signal to end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from server_process import Server, in_process, running
from victims import VICTIM, connect, counter, expected, no_unexplained_failures, request, victims, wait_until_idle
from websockets.sync.client import connect as websocket

from linnet.engine.params import SamplingParams
from linnet.ops.native import NativeOps
from linnet.server.guards.intake import Intake
from linnet.server.options import ServerOptions
from linnet.server.service import Service
from linnet.server.settings import read_settings

CANCELLED = 'linnet_outcomes_total{model="tiny",outcome="cancelled"}'


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
    assert counter(own, CANCELLED) >= begun > 0
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


def test_the_servers_own_time_limit(tmp_path: Path) -> None:
    """It holds for every route that generates, streamed or not, and no request can ask for more."""
    long = {"model": "tiny", "max_tokens": 900, "ignore_eos": True, "timeout": 1000}
    said = [{"role": "user", "content": "x"}]
    bodies = {"completions": {"prompt": "x"}, "chat/completions": {"messages": said}, "messages": {"messages": said}}
    with running(tmp_path, "tiny", "--request-timeout", "0.1") as server, server.client() as http:
        for path, body in {**{f"/v1/{name}": body for name, body in bodies.items()}, "/api/chat": {"prompt": "x"}}.items():
            for stream in (False, True):
                answer = http.post(path, json={**long, **body, "stream": stream})
                assert "within its timeout of 0.1 seconds" in answer.text
                assert answer.status_code == 504 or (stream and answer.status_code == 200)  # where it began in time
        trace = http.post("/api/trace", json={"prompt": "x", "max_tokens": 900, "ignore_eos": True})
        assert (trace.status_code, trace.json()["error"]["code"]) == (504, "deadline_exceeded")
        wait_until_idle(server)


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_nobody_takes_is_ended(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """Past the time of the request and some grace, whatever holds it up; with a status if there was none."""
    monkeypatch.setattr("linnet.server.guards.intake._GRACE_S", 0.0)
    sent: list[Any] = []
    ended = asyncio.Event()

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        try:
            if begun:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def receive() -> Any:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asked: list[bool] = []
    scope = {"type": "http", "path": "/v1/completions", "headers": []}
    asyncio.run(Intake(stuck, ServerOptions(request_timeout=0.1))(scope, receive, send))
    assert ended.is_set()
    assert sent[0]["status"] == (200 if begun else 504)


def test_what_is_submitted_when_its_client_has_left_is_cancelled() -> None:
    started, left, cancelled = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def submit(self, *prompt: Any, **options: Any) -> Any:
            started.set()
            left.wait(60)
            return SimpleNamespace(cancel=cancelled.set)

    async def ask() -> None:
        service: Any = SimpleNamespace(sampling=lambda *asked: SamplingParams())
        model: Any = Slow()
        body: Any = None
        async with Service.generating(service, model, body, "Once", SamplingParams()):
            raise AssertionError("it has left")

    async def leave() -> None:
        asking = asyncio.create_task(ask())
        await asyncio.to_thread(started.wait, 60)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        left.set()
        assert await asyncio.to_thread(cancelled.wait, 60)

    asyncio.run(leave())


def test_web_sockets_that_close_end_their_answers(own: Server) -> None:
    before = counter(own, CANCELLED)
    with ExitStack() as stack:
        # max_queue: a client that stops reading at so many messages never reads the server's farewell, and waits ten seconds for it
        sockets = [stack.enter_context(websocket(f"ws://127.0.0.1:{own.port}/api/ws", max_queue=None)) for _ in range(8)]
        for socket in sockets:
            socket.send(json.dumps({"prompt": "Once", "max_tokens": 900, "ignore_eos": True}))
        assert "text" in json.loads(sockets[0].recv(60))
    wait_until_idle(own)
    assert counter(own, CANCELLED) > before


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


def before_each_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    stepper = NativeOps.stepper

    def acting(*arguments: Any, **named: Any) -> Any:
        step = stepper(*arguments, **named)

        def run(*batch: Any) -> Any:
            act()
            return step(*batch)

        return run

    monkeypatch.setattr(NativeOps, "stepper", acting)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the process by Linux' /proc")
def test_health_tells_of_a_device_that_is_lost(tmp_path: Path) -> None:
    """One of two that share the model: health fails, and the log says which and why."""
    with running(tmp_path, "tiny", "--tp", "2", "--device", "cpu") as own, own.client() as client:
        assert client.get("/health").status_code == 200
        children = [int(child) for file in Path(f"/proc/{own.process.pid}/task").glob("*/children") for child in file.read_text().split()]
        [rank] = [child for child in children if "rank_process" in Path(f"/proc/{child}/cmdline").read_text()]
        os.kill(rank, signal.SIGKILL)
        time.sleep(1.1)  # for so long what health found last may hold
        answer = client.get("/health")
        assert (answer.status_code, "has stopped taking steps" in answer.text) == (503, True)
        failed = client.post("/v1/completions", json={"model": "tiny", "prompt": "Once", "max_tokens": 4})
        assert failed.status_code >= 500
        log = own.log.read_text()
        assert "rank 1 ended with exit code -9" in log


@pytest.mark.parametrize("busy", [False, True])
def test_health_tells_of_steps_that_do_not_end(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    """Of a request's step, and where there is none of the one that is taken for the purpose; other routes answer meanwhile."""
    goes = threading.Event()
    before_each_step(monkeypatch, goes.wait)
    monkeypatch.setattr("linnet.server.health.PROOF_S", 0.3)
    service = Service(read_settings(["tiny"], {}))
    body = {"prompt": "x", "max_tokens": 2}
    with in_process(service) as url, ThreadPoolExecutor(1) as pool, ExitStack() as last:
        last.callback(goes.set)  # whatever fails
        answer = pool.submit(httpx.post, f"{url}/api/chat", json=body, timeout=300) if busy else None
        while busy and not service.models.open["tiny"].counters().running:
            time.sleep(0.01)
        assert httpx.get(f"{url}/health", timeout=300).status_code == 503
        assert httpx.get(f"{url}/v1/models", timeout=300).status_code == 200
        goes.set()
        while httpx.get(f"{url}/health", timeout=300).status_code != 200:  # as soon as a step ends
            time.sleep(0.01)
        assert answer is None or answer.result().status_code == 200


def test_a_step_that_fails_takes_only_its_own_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients hear that it failed and no more; the log has the cause; the next request is answered."""
    fails = threading.Event()

    def fault() -> None:
        if fails.is_set():
            raise RuntimeError("injected, at 0x7f00 in /home/somebody")

    before_each_step(monkeypatch, fault)
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
