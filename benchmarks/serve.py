"""`linnet serve` against the server of llama-cpp-python on one GGUF file: 1, 8 and 32 streams at once, and what HTTP costs at 8 against
the engine without it.

Servers are processes of their own, at their defaults but for threads and contexts. A round asks each in turn, forwards and backwards by
turns; the first only warms up. Figures are medians of rounds, and of each round's own ratio. Ends with one line of JSON; exit code 1
where a target is missed. What HTTP costs, in two minutes: --skip-peer --streams 8 --reps 9.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from files import warm

LINNET, LLAMA_CPP, BARE = "linnet", "llama-cpp-python", "engine without HTTP"
CONTEXT, WORDS = 512, 40
THROUGHPUT_TARGET, FIRST_TOKEN_TARGET, COST_TARGET = 2.2, 0.5, 0.03


@dataclass
class Figures:
    """Of one contestant at one number of streams: seconds of each round, and seconds to the first token of each stream."""

    rounds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def first_p95(self) -> float:
        return quantiles(self.first, n=20)[-1] if len(self.first) > 1 else self.first[0]


def main() -> None:
    options = _options()
    if options.bare:
        _serve_bare(options)
        return
    warm(options.model)
    names = [LINNET, BARE] if options.skip_peer else [LINNET, BARE, LLAMA_CPP]
    figures: dict[tuple[str, int], Figures] = {}
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(STARTERS[name](options)) for name in names}
        for streams in options.streams:
            for round in range(options.reps + 1):
                for name in names if round % 2 else names[::-1]:
                    time.sleep(0.3)  # OpenMP's threads spin on after their work
                    seconds, first = contestants[name](_bodies(streams, options.tokens, round))
                    print(f"  {streams} streams, {'warm-up' if round == 0 else round}, {name}: {seconds:.2f} s", flush=True)
                    if round:
                        figures.setdefault((name, streams), Figures()).rounds.append(seconds)
                        figures[name, streams].first += first
    _report(figures, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a .gguf file, such as make_model.py makes")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--skip-peer", action="store_true", help="Linnet alone: what HTTP costs")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _bodies(streams: int, tokens: int, round: int) -> list[dict[str, Any]]:
    """Prompts that nobody has seen before, so that no cache helps; greedy, past the end token by a bias that both servers know."""
    draw = random.Random(1000 * streams + round)
    prompts = [" ".join("".join(draw.choices("abcdefgh", k=2)) for _ in range(WORDS)) for _ in range(streams)]
    common = {"model": "model", "max_tokens": tokens, "temperature": 0, "stream": True, "logit_bias": {"2": -100}}
    return [{**common, "prompt": prompt} for prompt in prompts]


class Ask:
    """Streams over plain sockets, since a client library would take from the servers what it needs itself."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, bodies: list[dict[str, Any]]) -> tuple[float, list[float]]:
        """Seconds until all are over, and of each until its first token."""
        selector, received, first = selectors.DefaultSelector(), {}, {}
        started = time.perf_counter()
        for body in bodies:
            connection = socket.create_connection(("127.0.0.1", self.port))
            content = json.dumps(body).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, connection)
            received[connection] = b""
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                data = connection.recv(1 << 16)
                received[connection] += data
                if connection not in first and b"data: {" in received[connection]:
                    first[connection] = time.perf_counter() - started
                if not data:
                    selector.unregister(connection)
                    connection.close()
        seconds = time.perf_counter() - started
        for answer in received.values():
            if b'"finish_reason":"length"' not in answer.replace(b": ", b":"):
                raise RuntimeError(f"an answer did not come to its end: {answer[-500:]!r}")
        return seconds, list(first.values())


@contextmanager
def _linnet(options: argparse.Namespace) -> Iterator[Ask]:
    command = [sys.executable, "-m", "linnet.cli.main", "serve", f"model={options.model}", "--threads", str(options.threads)]
    with _server([*command, "--context", str(CONTEXT), "--max-batch", str(max(options.streams)), "--port", "{port}"]) as port:
        yield Ask(port)


@contextmanager
def _llama_cpp(options: argparse.Namespace) -> Iterator[Ask]:
    """interrupt_requests off: by default a request ends those before it."""
    flags = {
        "model": options.model,
        "model_alias": "model",
        "n_ctx": CONTEXT,
        "n_threads": options.threads,
        "n_threads_batch": options.threads,
    }
    command = [sys.executable, "-m", "llama_cpp.server", "--interrupt_requests", "false", "--port", "{port}"]
    with _server([*command, *(str(part) for name, value in flags.items() for part in (f"--{name}", value))]) as port:
        yield Ask(port)


@contextmanager
def _server(command: list[str]) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([part.format(port=port) for part in command], stdout=quiet, stderr=quiet)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _bare(options: argparse.Namespace) -> Iterator[Any]:
    """`LLM.generate` in a process that is asked through pipes."""
    arguments = ["--threads", str(options.threads), "--streams", *map(str, options.streams)]
    process = subprocess.Popen(
        [sys.executable, __file__, str(options.model), "--bare", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asked, told = process.stdin, process.stdout
    assert asked is not None
    assert told is not None

    def ask(bodies: list[dict[str, Any]]) -> tuple[float, list[float]]:
        print(json.dumps(bodies), file=asked, flush=True)
        seconds, first = json.loads(told.readline())
        return seconds, first

    try:
        yield ask
    finally:
        asked.close()
        process.wait()


def _serve_bare(options: argparse.Namespace) -> None:
    from linnet import LLM, SamplingParams

    with LLM(options.model, threads=options.threads, context=CONTEXT, max_batch=max(options.streams)) as llm:
        for line in sys.stdin:
            bodies = json.loads(line)
            params = SamplingParams(max_tokens=bodies[0]["max_tokens"], temperature=0.0, logit_bias={2: -100.0})
            started = time.perf_counter()
            answers = llm.generate([body["prompt"] for body in bodies], params)
            seconds = time.perf_counter() - started
            print(json.dumps([seconds, [answer.timings.first_token_s for answer in answers]]), flush=True)


STARTERS = {LINNET: _linnet, BARE: _bare, LLAMA_CPP: _llama_cpp}


def _report(figures: dict[tuple[str, int], Figures], options: argparse.Namespace) -> None:
    rows: dict[str, Any] = {}
    met = True
    for streams in options.streams:
        row: dict[str, Any] = {}
        for (name, count), found in figures.items():
            if count == streams:
                speeds = [streams * options.tokens / seconds for seconds in found.rounds]
                row[name] = {"tokens_per_s": round(median(speeds), 1), "first_token_p95_s": round(found.first_p95, 3)}
                print(f"{streams} streams, {name}: {row[name]}")
        rounds = zip(figures[LINNET, streams].rounds, figures[BARE, streams].rounds, strict=True)
        row["http_cost"] = round(median(1 - bare / linnet for linnet, bare in rounds), 4)
        if LLAMA_CPP in row:
            row["throughput_ratio"] = round(row[LINNET]["tokens_per_s"] / row[LLAMA_CPP]["tokens_per_s"], 2)
            row["first_token_ratio"] = round(row[LINNET]["first_token_p95_s"] / row[LLAMA_CPP]["first_token_p95_s"], 3)
        if streams == 8:
            met = met and row["http_cost"] < COST_TARGET and row.get("throughput_ratio", THROUGHPUT_TARGET) >= THROUGHPUT_TARGET
            met = met and row.get("first_token_ratio", 0.0) <= FIRST_TOKEN_TARGET
        rows[str(streams)] = row
    targets = {"throughput_ratio": THROUGHPUT_TARGET, "first_token_ratio": FIRST_TOKEN_TARGET, "http_cost": COST_TARGET}
    print(json.dumps({"model": options.model.name, "threads": options.threads, "streams": rows, "targets_at_8": targets, "met": met}))
    sys.exit(not met)


if __name__ == "__main__":
    main()
