"""From the start of the process to the first token, and peak resident memory, of Linnet and llama.cpp on one GGUF file.

Also the part of it that is loading and the first token, without the start of Python and imports. The file is read once beforehand, so
that it lies in the page cache. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

CONTEXT = 512
ENGINES = ("linnet", "llama.cpp")


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process, and from the start of loading, to the first token; the most resident bytes."""

    process_s: float
    load_s: float
    memory: int


def first_token_linnet(path: Path, threads: int) -> float:
    from linnet import LLM, SamplingParams

    start = time.perf_counter()
    llm = LLM(str(path), ops="native", threads=threads, context=CONTEXT)
    llm.generate(["ab cd"], SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    return time.perf_counter() - start


def first_token_llama_cpp(path: Path, threads: int) -> float:
    from peer import LlamaCpp, quiet_llama_cpp

    quiet_llama_cpp()
    start = time.perf_counter()
    peer = LlamaCpp(path, threads, CONTEXT)
    next(peer.stream(peer.tokenize("ab cd", special=False), 1))
    return time.perf_counter() - start


def peak_memory() -> int:
    """The most bytes that were ever resident in this process, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def child(engine: str, path: Path, threads: int) -> None:
    """Runs in a process of its own: says when the first token is there, then how long that took since loading, and how much memory."""
    load_s = (first_token_linnet if engine == "linnet" else first_token_llama_cpp)(path, threads)
    print("token", flush=True)
    print(load_s, peak_memory(), flush=True)


def measure(engine: str, path: Path, threads: int) -> Start:
    """Starts a process, to its first token."""
    command = [sys.executable, __file__, str(path), "--threads", str(threads), "--child", engine]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed = time.perf_counter() - start
        if line != "token\n":
            raise RuntimeError(f"{engine} gave no token")
        load_s, memory = process.stdout.readline().split()
        return Start(elapsed, float(load_s), int(memory))


def warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file, for example of make_model.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.model, arguments.threads)
        return
    warm(arguments.model)
    size = arguments.model.stat().st_size
    runs = [{engine: measure(engine, arguments.model, arguments.threads) for engine in ENGINES} for _ in range(arguments.repeats)]
    figures: dict[str, object] = {"model": arguments.model.name, "file_bytes": size, "context": CONTEXT}
    for engine in ENGINES:
        process_s = median(run[engine].process_s for run in runs)
        load_s = median(run[engine].load_s for run in runs)
        memory = max(run[engine].memory for run in runs)
        figures[engine] = {
            "first_token_s": round(process_s, 3),
            "load_and_first_token_s": round(load_s, 3),
            "peak_memory_bytes": memory,
            "memory_per_file": round(memory / size, 3),
        }
        print(
            f"{engine}: first token {process_s:.2f} s after the start of the process, {load_s:.2f} s after that of loading (medians), "
            f"peak memory {memory / 1e6:.0f} MB, {memory / size:.2f} times the file"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
