"""What goes wrong beside a stream that must not notice: clients that vanish, dawdle or talk nonsense, steps that fail, a signal to end."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_process import Server, in_process, running

from linnet import LLM, SamplingParams
from linnet.ops.native import NativeOps
from linnet.server.service import Service
from linnet.server.settings import read_settings

VICTIM = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 900, "seed": 11, "ignore_eos": True}


@pytest.fixture(scope="module")
def expected() -> str:
    """What the victim must get."""
    with LLM("tiny") as llm:
        return llm.generate(VICTIM["prompt"], SamplingParams(max_tokens=900, seed=11, ignore_eos=True))[0].text


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, since its counters must add up."""
    with running(tmp_path_factory.mktemp("faults"), "tiny", "--max-batch", "8", "--max-queue", "40", "--body-timeout", "2") as server:
        yield server


@contextmanager
def victims(server: Server, expected: str, until: float = 0.0) -> Iterator[None]:
    """Streams, one after another until some time has passed and the block is over, each of which must be whole."""
    texts: list[str] = []
    over = threading.Event()

    def follow() -> None:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5)
        body = {name: value for name, value in VICTIM.items() if name != "ignore_eos"}
        while not texts or not over.is_set():
            stream = client.completions.create(**body, stream=True, extra_body={"ignore_eos": True, "priority": -1000})
            texts.append("".join(chunk.choices[0].text for chunk in stream))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(120)
    assert not thread.is_alive()
    assert set(texts) == {expected}


def counter(server: Server, name: str) -> float:
    for line in httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines():
        if line.startswith(name):
            return float(line.rpartition(" ")[2])
    raise AssertionError(name)


def wait_until_idle(server: Server) -> None:
    """Every request over, and every page free."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if not any(counter(server, f"linnet_{what}") for what in ("running", "waiting", "pages_used")):
            return
        time.sleep(0.05)
    raise AssertionError("requests or pages are left over")


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def request(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def no_unexplained_failures(server: Server) -> None:
    """No 500 in the log without what caused it, on a line under the same id."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    explained = {line.get("request_id") for line in lines if line["level"] == "error"}
    assert not [line for line in lines if line.get("status") == 500 and line["request_id"] not in explained]


def test_connections_dropped_at_random_moments(own: Server, expected: str) -> None:
    """In the head, in the body, in the queue, in a prefill of a thousand tokens, in an answer: pages come back and nobody else notices."""
    draw = random.Random(5)
    long = {"model": "tiny", "prompt": "word " * 450, "max_tokens": 400, "ignore_eos": True}
    with victims(own, expected):
        for i in range(200):
            body = {**long, "stream": bool(i % 2), "n": 1 + i % 3, "seed": i}
            if i % 5 == 0:
                body["prompt"] = f"{i} " + str(body["prompt"])  # not in the cache
            data = request("/v1/completions", body)
            with connect(own) as connection:
                connection.sendall(data[: draw.randrange(len(data))] if i % 4 == 0 else data)
                time.sleep(draw.random() * 0.02)
                if i % 3 == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a farewell
    wait_until_idle(own)
    assert counter(own, 'linnet_outcomes_total{model="tiny",outcome="cancelled"}') > 10
    no_unexplained_failures(own)


def test_half_a_body_and_slow_readers(own: Server, expected: str) -> None:
    long = {"model": "tiny", "prompt": "1", "max_tokens": 900, "ignore_eos": True, "stream": True, "logprobs": 20}
    with victims(own, expected):
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


def test_random_traffic_beside_a_victim(own: Server, expected: str) -> None:
    traffic(own, expected, seconds=4)


@pytest.mark.slow
def test_ten_minutes_of_it(own: Server, expected: str) -> None:
    traffic(own, expected, seconds=60)
    before = resident_bytes(own)
    traffic(own, expected, seconds=540)
    assert resident_bytes(own) < before * 1.1 + 20e6


def traffic(server: Server, expected: str, seconds: float) -> None:
    """Requests good and bad from four threads, of every route, some of them cut off."""
    until = time.monotonic() + seconds

    def send(seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while time.monotonic() < until:
                path, body = _some_request(draw)
                with suppress(httpx.TimeoutException):
                    answer = client.post(path, content=body, timeout=draw.choice([0.05, 60, 60]))
                    assert answer.status_code in (200, 400, 404, 429), answer.text

    with victims(server, expected):
        failures: list[BaseException] = []

        def guarded(seed: int) -> None:
            try:
                send(seed)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures
    wait_until_idle(server)
    no_unexplained_failures(server)
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200


def _some_request(draw: random.Random) -> tuple[str, bytes]:
    path = draw.choice(["/v1/completions", "/v1/chat/completions", "/api/chat", "/tokenize", "/detokenize", "/api/trace"])
    values = [None, -1, 0, 1, 2**31, 2**63, 1e308, -0.5, "x", "", [], {}, True, [["x"]], {"a": 1}, "\x00", "<|end|>", "é" * 300]
    body: dict[str, object] = {"model": "tiny", "max_tokens": draw.randrange(40), "temperature": draw.random()}
    if path == "/v1/chat/completions":
        body["messages"] = [
            {"role": draw.choice(["user", "system", "assistant", "tool", "x"]), "content": draw.choice(["Hi", "", "<|end|>", "é"])}
        ]
    else:
        body["prompt"] = draw.choice(["Hello", "1 + 1 =", "", "word " * 700, [1, 2, 3], [2000], [[1], [2]], "\ud83d\ude00"])
    if draw.random() < 0.5:
        names = [
            "n",
            "top_p",
            "top_k",
            "seed",
            "stop",
            "logprobs",
            "logit_bias",
            "stream",
            "min_tokens",
            "priority",
            "timeout",
            "foo",
            "tools",
            "echo",
        ]
        body[draw.choice([*names, *body])] = draw.choice(values)
    data = json.dumps(body).encode()
    if draw.random() < 0.1:
        cut = draw.randrange(len(data))
        data = data[:cut] + draw.choice([b"", b"\xff", b"NaN", b"[[[[", b'"']) + data[cut + 1 :]
    return path, data


def resident_bytes(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_a_signal_under_load_lets_answers_end(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, "tiny") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        body = {name: value for name, value in VICTIM.items() if name != "ignore_eos"}
        streams = [iter(client.completions.create(**body, stream=True, extra_body={"ignore_eos": True})) for _ in range(4)]
        texts = [next(stream).choices[0].text for stream in streams]
        with socket.create_connection(("127.0.0.1", server.port)):  # one that is open, and says nothing
            server.process.send_signal(signal.SIGTERM)
            texts = [text + "".join(chunk.choices[0].text for chunk in stream) for text, stream in zip(texts, streams, strict=True)]
            assert texts == [expected] * 4
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
