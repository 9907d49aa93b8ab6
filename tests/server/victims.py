"""A stream that must not notice what goes on beside it, and what must hold of a server afterwards."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import openai
from server_process import Server

from linnet import LLM, SamplingParams

VICTIM = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 500, "seed": 11, "ignore_eos": True}


@cache
def expected() -> str:
    """What a victim must get."""
    with LLM("tiny") as llm:
        return llm.generate("Once upon a time", SamplingParams(max_tokens=500, seed=11, ignore_eos=True))[0].text


@contextmanager
def victims(server: Server, pause: float = 0.0) -> Iterator[list[str]]:
    """Streams, one after another until the block is over, seconds of pause between them. Each must be whole."""
    texts: list[str] = []
    over = threading.Event()

    def follow() -> None:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5)
        body = {name: value for name, value in VICTIM.items() if name != "ignore_eos"}
        while not texts or not over.wait(pause):
            stream = client.completions.create(**body, stream=True, extra_body={"ignore_eos": True, "priority": -1000})
            texts.append("".join(chunk.choices[0].text for chunk in stream))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield texts
    finally:
        over.set()
        thread.join(300)
    assert not thread.is_alive()
    assert set(texts) == {expected()}


def counter(server: Server, name: str) -> float:
    for line in httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines():
        if line.startswith(name):
            return float(line.rpartition(" ")[2])
    raise AssertionError(name)


def wait_until_idle(server: Server) -> None:
    """Every request over, and every page free."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not any(counter(server, f"linnet_{what}") for what in ("running", "waiting", "pages_used")):
            return
        time.sleep(0.05)
    raise AssertionError("requests or pages are left over")


def no_unexplained_failures(server: Server) -> None:
    """No 500 in the log without what caused it, on a line under the same id."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    explained = {line.get("request_id") for line in lines if line["level"] == "error"}
    assert not [line for line in lines if line.get("status") == 500 and line["request_id"] not in explained]


def tells_nothing(text: str) -> None:
    """Of this machine, in an error: no path, no address in memory, no traceback."""
    for sign in ("Traceback", "0x", "/home", "/root", "/tmp", "/usr", "site-packages", ".py", str(Path(__file__).parents[2])):
        assert sign not in text, text


def resident_bytes(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=300)


def request(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content
