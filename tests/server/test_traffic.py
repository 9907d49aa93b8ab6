"""Random requests, good and bad, of every route, some cut off, some never read, beside a victim stream: for a minute; `slow`: for ten.

Threads pause between requests, so that the minute takes little of a machine that runs other tests meanwhile.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from server_process import Server, running
from victims import connect, counter, no_unexplained_failures, request, resident_bytes, tells_nothing, victims, wait_until_idle

THREADS = 4
VALUES = [None, -1, 0, 1, 2**31, 2**63, 1e308, -0.5, "x", "", [], {}, True, [["x"]], {"a": 1}, "\x00", "<|end|>", "é" * 300]
FIELDS = ["n", "top_p", "top_k", "seed", "stop", "logprobs", "logit_bias", "stream", "min_tokens", "priority", "timeout", "foo", "tools"]
TEXTS = ["Hello", "1 + 1 =", "", "word " * 700, "word " * 300, "\ud83d\ude00", "<|end|>é"]
IDS = [[1, 2, 3], [2000], [[1], [2]], [5] * 400]
LONG = {"model": "tiny", "prompt": "word " * 300, "max_tokens": 300, "ignore_eos": True, "stream": True, "logprobs": 5}
JSON = {"content-type": "application/json"}
STATUSES = {200, 400, 404, 429, 504}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("traffic"), "tiny", "--max-batch", "8", "--max-queue", "40", "--body-timeout", "2") as server:
        yield server


def test_a_minute_beside_a_victim(own: Server) -> None:
    for seconds, flat in ((20, False), (40, True)):
        traffic(own, seconds, pause=0.25, flat=flat)


@pytest.mark.slow
def test_ten_minutes_beside_a_victim(own: Server) -> None:
    for seconds, flat in ((60, False), (540, True)):
        traffic(own, seconds, pause=0.0, flat=flat)


def traffic(server: Server, seconds: float, pause: float, flat: bool) -> None:
    """flat: memory must not grow meanwhile, past what a cache that fills takes."""
    before, until = resident_bytes(server), time.monotonic() + seconds
    seen: Counter[object] = Counter()
    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            _send(server, random.Random(seed), until, pause, seen)
        except BaseException as error:
            failures.append(error)

    with victims(server, pause * 4) as streams:
        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures
    assert seen.keys() >= {200, 400, "half", "unread"}
    wait_until_idle(server)
    no_unexplained_failures(server)
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    after = resident_bytes(server)
    print(f"{seconds} s: {len(streams)} victims, {dict(seen)}, {counter(server, 'linnet_generated_tokens_total'):.0f} tokens,", end=" ")
    print(f"resident {before / 1e6:.1f} MB before, {after / 1e6:.1f} after")
    assert not flat or after < before * 1.1 + 20e6


def _send(server: Server, draw: random.Random, until: float, pause: float, seen: Counter[object]) -> None:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        while time.monotonic() < until:
            kind = draw.choices(["whole", "half", "unread"], [20, 1, 1])[0]
            if kind == "whole":
                path, body = _some_request(draw)
                try:
                    answer = client.post(path, content=body, headers=JSON, timeout=draw.choice([0.05, 120, 120]))
                    assert answer.status_code in STATUSES, (path, body[:300], answer.text)
                    if answer.status_code >= 400:
                        tells_nothing(answer.text)
                    kind = answer.status_code
                except httpx.TimeoutException:
                    kind = "left"
            else:
                _misbehave(server, draw, kind)
            seen[kind] += 1
            time.sleep(draw.random() * 2 * pause)


def _misbehave(server: Server, draw: random.Random, kind: str) -> None:
    """Sends half a request, or reads nothing of an answer, and leaves after a while."""
    data = request("/v1/completions", LONG)
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(data[: draw.randrange(len(data))] if kind == "half" else data)
        time.sleep(draw.random())


def _some_request(draw: random.Random) -> tuple[str, bytes]:
    paths = ["completions", "chat/completions", "messages", "messages/count_tokens", "responses", "embeddings"]
    path = draw.choice([*(f"/v1/{path}" for path in paths), "/api/chat", "/tokenize", "/detokenize", "/api/trace"])
    body: dict[str, object] = {"model": "tiny", "max_tokens": draw.randrange(40), "temperature": draw.random()}
    if path == "/v1/messages/count_tokens":
        body = {"model": "tiny", "messages": [{"role": "user", "content": draw.choice(TEXTS)}]}
    elif path in ("/v1/chat/completions", "/v1/messages"):
        role = draw.choice(["user"] * 5 + ["system", "assistant", "tool", "x"])
        body["messages"] = [{"role": role, "content": draw.choice(["Hi", "", "<|end|>", "é"])}]
    elif path == "/v1/responses":
        body = {"model": "tiny", "max_output_tokens": draw.randrange(40), "input": draw.choice(TEXTS)}
    elif path in ("/v1/embeddings", "/tokenize", "/detokenize"):
        name, given = {"/tokenize": ("prompt", TEXTS), "/detokenize": ("tokens", IDS)}.get(path, ("input", [*TEXTS, *IDS]))
        body = {"model": "tiny", name: draw.choice(given)}
    else:
        body["prompt"] = draw.choice([*TEXTS, *IDS] if path == "/v1/completions" else TEXTS)
    if draw.random() < 0.5:
        body[draw.choice([*FIELDS, *body])] = draw.choice(VALUES)
    data = json.dumps(body).encode()
    if draw.random() < 0.1:
        cut = draw.randrange(len(data))
        data = data[:cut] + draw.choice([b"", b"\xff", b"NaN", b"[[[[", b'"', b"\\ud800"]) + data[cut + 1 :]
    return path, data
