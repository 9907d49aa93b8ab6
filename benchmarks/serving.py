"""Requests that come together, in Linnet and in llama.cpp with as many sequences in a batch; what scheduling and sampling take of
Linnet's steps, greedy and drawn; and the first token of a prompt whose beginning another has had. Random weights; the last line is
one JSON object."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from files import make_files
from rounds import Contestant, run_rounds
from rows import LINNET, LLAMA_CPP, ROWS
from shapes import SHAPES
from worker import Worker

from linnet import LLM, SamplingParams

REQUESTS, PROMPT, ANSWER, PREFIX = 16, 128, 64, 512
FILE = next(row for row in ROWS if row.name == "tg16-q4_0")
VOCABULARY = SHAPES[FILE.shape].vocab


def together(model: str, threads: int, reps: int) -> dict[str, Any]:
    with ExitStack() as stack:
        contestants = []
        for engine in (LINNET, LLAMA_CPP):
            worker = Worker(engine, model, threads, PROMPT + ANSWER, REQUESTS, VOCABULARY)
            stack.callback(worker.close)
            contestants.append(Contestant(engine, partial(worker.ask, "serve", PROMPT, ANSWER), worker))
        _, others = run_rounds(contestants, reps, threads)
        assert contestants[0].worker is not None
        steps, forward = contestants[0].worker.ask("steps")
    seconds = {contestant.name: round(contestant.median, 3) for contestant in contestants}
    ratio = contestants[1].median / contestants[0].median
    share = 1 - forward / steps
    return {"seconds": seconds, "llama.cpp / linnet": round(ratio, 3), "outside the model": round(share, 4), "others_share": others}


def drawn(model: str, threads: int, reps: int) -> dict[str, Any]:
    """What all but the model takes of steps whose tokens are drawn from the whole vocabulary, flat as random weights make it."""
    draw = random.Random(2)
    params = SamplingParams(max_tokens=ANSWER, temperature=1.0, ignore_eos=True)
    with LLM(model, threads=threads, context=PROMPT + ANSWER, max_batch=REQUESTS, prefix_cache=False) as llm:
        for _ in range(reps):
            llm.generate([draw.choices(range(3, VOCABULARY), k=PROMPT) for _ in range(REQUESTS)], params)
        counters = llm.counters()
        return {"outside the model": round(1 - counters.forward_seconds / counters.step_seconds.total, 4)}


def prefix(model: str, threads: int, reps: int) -> dict[str, Any]:
    """First tokens of two prompts that begin alike, each pair with a beginning of its own."""
    draw = random.Random(1)
    first_s: list[float] = []
    second_s: list[float] = []
    with LLM(model, threads=threads, context=PREFIX + 64, max_batch=2) as llm:
        for _ in range(reps + 1):
            beginning = draw.choices(range(3, VOCABULARY), k=PREFIX)
            for seconds in (first_s, second_s):
                prompt = [*beginning, *draw.choices(range(3, VOCABULARY), k=16)]
                start = time.perf_counter()
                llm.generate(prompt, SamplingParams(max_tokens=1, temperature=0.0))
                seconds.append(time.perf_counter() - start)
    first, second = median(first_s[1:]), median(second_s[1:])
    return {"first_s": round(first, 4), "second_s": round(second, 4), "second / first": round(second / first, 4)}


PARTS: dict[str, Callable[[str, int, int], dict[str, Any]]] = {"together": together, "drawn": drawn, "prefix": prefix}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "linnet-benchmarks", help="folder of the model files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(PARTS), help="measure this part alone")
    parser.add_argument("--reps", type=int, default=3)
    arguments = parser.parse_args()
    make_files(FILE, arguments.models)
    model = str(arguments.models / FILE.file)
    chosen = [name for name in PARTS if arguments.only in (None, name)]
    found = {name: PARTS[name](model, arguments.threads, arguments.reps) for name in chosen}
    for name, figures in found.items():
        print(f"{name}: {figures}")
    print(json.dumps({"threads": arguments.threads, "reps": arguments.reps, **found}))


if __name__ == "__main__":
    main()
