"""What the machine can do, and what this process takes of it: read bandwidth, peaks of arithmetic, peak memory."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from linnet.ops.native import arithmetic_peaks
from linnet.system_files import system_bytes

if TYPE_CHECKING:
    from torch import device as Device

PROBE_BYTES = 2**28
"""Read at a time: several times the largest caches of today, so that memory has to give it."""
PROBE_PASSES = 7

_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Machine:
    """Of so many threads together: bytes a second read from memory in order; multiply-adds a second of bytes and of float32, as the
    instruction set that runs does them in loops of nothing else (csrc/core/peaks.cc), 0 where there is no such loop.

    device: of one that PyTorch drives (`device.py`), which then `isa` names, and `threads` is 0; None: of the processor."""

    threads: int
    isa: str
    read_bandwidth: float
    integer_peak: float
    float_peak: float
    device: Device | None = None


def measure(threads: int) -> Machine:
    """Measures the machine, for about a second."""
    isa, integer_peak, float_peak = arithmetic_peaks(threads)
    return Machine(threads, isa, read_bandwidth(threads), integer_peak, float_peak)


def read_bandwidth(threads: int, nbytes: int = PROBE_BYTES) -> float:
    """Bytes a second that `threads` threads read from memory in order, each a share of `nbytes`: the best of PROBE_PASSES passes.

    The reading is NumPy's maximum over int32, which runs at vector width without the interpreter's lock and waits for nothing
    but memory.
    """
    values = np.ones(nbytes // 4, np.int32)  # written, so that every page is there
    shares = np.array_split(values, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PROBE_PASSES):
            start = time.perf_counter()
            list(pool.map(np.max, shares))
            best = min(best, time.perf_counter() - start)
    return values.nbytes / best


def reset_peak_memory() -> None:
    """Lets `peak_memory` begin anew from what is resident now, where the system can (Linux)."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Most bytes of this process that were in memory at once, mapped files included, since `reset_peak_memory`, or else since its
    start; None where the system does not tell."""
    resident = system_bytes(_PROCESS / "status", "VmHWM")
    if resident is not None:
        return resident
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
