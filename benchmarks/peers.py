"""Linnet, llama.cpp, CTranslate2 and transformers on the same random weights: every figure that Linnet sets out to reach, and its ratios.

Each engine is a process of its own, and they run in turn. A figure is the median of --reps runs, a ratio that of two medians. Shares
are of the read bandwidth and arithmetic peaks that Linnet's probes find in between. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from files import make_files, missing_packages, warm
from first_token import Start
from first_token import measure as measure_start
from rounds import Contestant, run_rounds
from rows import BANDWIDTH, DEPTH, ENGINES, LINNET, LLAMA_CPP, ROUNDS, ROWS, START, Row, model_path, over
from shapes import SHAPES
from shares import engine_cost, shares
from worker import Worker

Figures = dict[str, Any]
NEAR = 100  # tokens of context that a long one is compared with
TINY_VOCABULARY = 1328
BUSY = 0.05  # part of the processors' time that other work may take


class Decoder:
    """Sequences that grow from run to run, and begin anew every ROUNDS runs."""

    def __init__(self, worker: Worker, row: Row) -> None:
        self.worker, self.row, self.runs = worker, row, 0

    def __call__(self) -> float:
        if self.runs % ROUNDS == 0:
            self.worker.ask("fill", self.row.begin)
        self.runs += 1
        return float(self.worker.ask("decode", self.row.steps))


@contextmanager
def open_worker(engine: str, row: Row, folder: Path, threads: int) -> Iterator[Worker]:
    vocabulary = SHAPES[row.shape].vocab if row.shape in SHAPES else TINY_VOCABULARY
    worker = Worker(engine, model_path(engine, row, folder), threads, row.context, row.batch, vocabulary)
    try:
        yield worker
    finally:
        worker.close()


def measure_rates(row: Row, folder: Path, threads: int, reps: int) -> Figures:
    """Tokens a second of every engine, all sequences together, and Linnet's over the others'."""
    contestants = []
    with ExitStack() as stack:
        for engine in row.engines:
            worker = stack.enter_context(open_worker(engine, row, folder, threads))
            run: Callable[[], float] = Decoder(worker, row) if row.kind == "decode" else partial(worker.ask, "prompt", row.length)
            contestants.append(Contestant(engine, run, worker))
        machine, others = run_rounds(contestants, reps, threads)
    tokens = row.length if row.kind == "prompt" else row.steps * row.batch
    engines: Figures = {}
    for contestant in contestants:
        assert contestant.worker is not None
        rates = [tokens / seconds for seconds in contestant.seconds]
        rate = tokens / contestant.median
        cost = engine_cost(contestant.name, folder / row.file)
        engines[contestant.name] = {
            "tokens_per_s": round(rate, 1),
            "least": round(min(rates), 1),
            "most": round(max(rates), 1),
            **shares(row, cost, rate, machine),
            "about": contestant.worker.about,
        }
    mine = engines.get(LINNET, {})
    ratios = {over(name): mine["tokens_per_s"] / engines[name]["tokens_per_s"] for name in engines if mine and name != LINNET}
    if BANDWIDTH in mine:
        ratios[BANDWIDTH] = mine[BANDWIDTH]
    return {"engines": engines, "ratios": ratios, "machine": asdict(machine), "others_share": others}


def measure_depth(row: Row, folder: Path, threads: int, reps: int) -> Figures:
    """Time a token deep in a context over that near its beginning, each by a process of its own, so that these interleave too."""
    rows = {NEAR: replace(row, length=NEAR), row.length: row}
    contestants: dict[tuple[str, int], Contestant] = {}
    with ExitStack() as stack:
        for engine in row.engines:
            for length, at in rows.items():
                worker = stack.enter_context(open_worker(engine, at, folder, threads))
                contestants[engine, length] = Contestant(f"{engine} at {length}", Decoder(worker, at), worker)
        machine, others = run_rounds(list(contestants.values()), reps, threads)
    engines: Figures = {}
    for engine in row.engines:
        cost = engine_cost(engine, folder / row.file)
        near, deep = (contestants[engine, length].median / row.steps for length in rows)
        engines[engine] = {
            "near_ms": round(near * 1e3, 2),
            "deep_ms": round(deep * 1e3, 2),
            "deep / near": round(deep / near, 3),
            "near": shares(rows[NEAR], cost, 1 / near, machine),
            "deep": shares(row, cost, 1 / deep, machine),
        }
    ratios = {DEPTH: engines[LINNET]["deep / near"]} if LINNET in engines else {}
    return {"engines": engines, "ratios": ratios, "machine": asdict(machine), "others_share": others}


def measure_starts(row: Row, folder: Path, threads: int, reps: int) -> Figures:
    """Linnet's whole start over llama.cpp's loading and first token alone, the file in the page cache."""
    path = folder / row.file
    warm(path)
    starts: dict[str, list[Start]] = {engine: [] for engine in row.engines}

    def run(engine: str) -> float:
        starts[engine].append(measure_start(engine, path, threads))
        return starts[engine][-1].process_s

    machine, others = run_rounds([Contestant(engine, partial(run, engine)) for engine in starts], reps, threads)
    engines: Figures = {}
    for engine, all_runs in starts.items():
        runs = sorted(all_runs[1:], key=lambda start: start.process_s)  # the first only warms up
        loads = sorted(start.load_s for start in runs)
        engines[engine] = {
            "process_start_to_first_token_s": round(runs[len(runs) // 2].process_s, 3),
            "load_and_first_token_s": round(loads[len(loads) // 2], 3),
            "peak_memory_bytes": max(start.memory for start in runs),
        }
    ratios = {}
    if {LINNET, LLAMA_CPP} <= engines.keys():
        mine, peer = engines[LINNET], engines[LLAMA_CPP]
        ratios[START] = mine["process_start_to_first_token_s"] / peer["load_and_first_token_s"]
        ratios["both from process start"] = mine["process_start_to_first_token_s"] / peer["process_start_to_first_token_s"]
    return {"engines": engines, "ratios": ratios, "machine": asdict(machine), "others_share": others}


MEASURES = {"prompt": measure_rates, "decode": measure_rates, "depth": measure_depth, "start": measure_starts}


def measure_row(row: Row, folder: Path, threads: int, reps: int) -> Figures:
    """A row's figures, and its ratios next to their targets."""
    figures = MEASURES[row.kind](row, folder, threads, reps)
    ratios = figures.pop("ratios")
    figures["ratios"] = {}
    for name, value in ratios.items():
        entry: Figures = {"value": round(value, 3)}
        if name in row.targets:
            target = row.targets[name]
            entry |= {"at most" if row.is_time else "at least": target, "met": value <= target if row.is_time else value >= target}
        figures["ratios"][name] = entry
    return figures


def show(row: Row, figures: Figures) -> None:
    others = figures["others_share"]
    bandwidth, integers, floats = (figures["machine"][name] / 1e9 for name in ("read_bandwidth", "integer_peak", "float_peak"))
    print(f"{row.name}: memory {bandwidth:.1f} GB/s, multiply-adds {integers:.0f} and {floats:.0f} G/s")
    if others is not None:
        hint = "; these figures mean little" if others > BUSY else ""
        print(f"    other work took {others:.1%} of the processors' time{hint}")
    for engine, found in figures["engines"].items():
        values = ", ".join(f"{name} {value}" for name, value in found.items() if name != "about")
        print(f"    {engine}: {values}")
    for name, ratio in figures["ratios"].items():
        bound = next(
            (f", {word} {ratio[word]}: {'met' if ratio['met'] else 'not met'}" for word in ("at least", "at most") if word in ratio), ""
        )
        print(f"    {name}: {ratio['value']:.3f}{bound}", flush=True)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def parse_arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="ROW", help=f"a row to measure, as often as wanted; of {', '.join(names)}")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="measure these alone, where a row has them")
    parser.add_argument("--reps", type=int, default=5, help="measured runs of each engine, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "linnet-benchmarks", help="folder of the model files")
    parser.add_argument("--make", action="store_true", help="make the model files of these rows, and measure nothing")
    arguments = parser.parse_args()
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"there is no row {name}; there are {', '.join(names)}")
    if arguments.reps < 1 or arguments.threads < 1:
        parser.error("--reps and --threads are at least 1")
    chosen = (row for row in ROWS if not arguments.only or row.name in arguments.only)
    arguments.rows = [replace(row, engines=tuple(name for name in row.engines if name in arguments.engines)) for row in chosen]
    missing = missing_packages({engine for row in arguments.rows for engine in row.engines})
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; see benchmarks/README.md, or leave the engine out with --engines")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    for row in arguments.rows:
        make_files(row, arguments.models)
    if arguments.make:
        return
    measured: Figures = {}
    for row in arguments.rows:
        measured[row.name] = measure_row(row, arguments.models, arguments.threads, arguments.reps)
        show(row, measured[row.name])
    result = {
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": arguments.threads,
        "reps": arguments.reps,
        "rows": measured,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
