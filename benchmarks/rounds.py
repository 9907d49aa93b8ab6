"""Runs contestants in turn, round after round, and keeps the times: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from worker import TICK_S, Worker

from linnet.bench.machine import Machine, measure

REST = 0.3
"""Seconds before each run: OpenMP's threads spin for up to 0.2 s after their work."""


@dataclass
class Contestant:
    """What runs in turn. run: gives its seconds. worker: the process that computes, where there is one that stays."""

    name: str
    run: Callable[[], float]
    worker: Worker | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)


def run_rounds(contestants: list[Contestant], reps: int, threads: int) -> tuple[Machine, float | None]:
    """One round that only warms up, then `reps` that count: the median machine of as many probes, and the part of its processors' time
    during the runs that went to other work than theirs (None where the system does not tell)."""
    machines: list[Machine] = []
    elapsed = others = 0.0
    for round in range(reps + 1):
        for contestant in contestants:
            time.sleep(REST)
            start, busy = time.perf_counter(), _others_seconds(contestant.worker)
            seconds = contestant.run()
            print(f"  {'warm-up' if round == 0 else round}, {contestant.name}: {seconds:.3f} s", flush=True)
            if round:
                contestant.seconds.append(seconds)
                elapsed += time.perf_counter() - start
                others += _others_seconds(contestant.worker) - busy
        if round:
            time.sleep(REST)
            machines.append(measure(threads))
    probes = {name: median(getattr(machine, name) for machine in machines) for name in ("read_bandwidth", "integer_peak", "float_peak")}
    known = _busy_seconds() > 0 and all(contestant.worker for contestant in contestants)
    return Machine(threads, machines[0].isa, **probes), round_share(others, elapsed) if known else None


def round_share(others: float, elapsed: float) -> float:
    return round(max(0.0, others) / (elapsed * _processors()), 3)


def _processors() -> int:
    return sum(line[:3] == "cpu" for line in Path("/proc/stat").read_text().splitlines()) - 1


def _others_seconds(worker: Worker | None) -> float:
    """Processor time of everything but the worker so far."""
    return _busy_seconds() - (worker.processor_seconds() if worker else 0.0)


def _busy_seconds() -> float:
    """Processor time of the whole machine so far, that taken from it by its host included; 0 where the system does not tell."""
    with suppress(OSError):
        user, nice, system, _, _, interrupts, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + interrupts + soft + stolen) * TICK_S
    return 0.0
