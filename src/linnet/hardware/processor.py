"""The processor: its name, sockets, cores and caches, as Linux' files tell; elsewhere what Python knows of it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from linnet.control_group import processor_quota
from linnet.ops.native import NativeOps, default_threads
from linnet.system_files import system_text, usable_processors

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Cache:
    """Caches of one level and kind ("Data", "Instruction", "Unified") that are alike: bytes of each, and how many there are."""

    level: int
    kind: str
    nbytes: int
    count: int


@dataclass(frozen=True)
class Processor:
    """isas: the instruction sets that it has and Linnet has kernels for, best first; isa: the one that runs.

    sockets, cores: None where the system does not tell. threads: what the machine has, hyperthreads counted one by one; usable_threads:
    those that this process may run on. quota: of how many processors' time a container gets, None: no limit.
    default_threads: how many Linnet uses unless it is told.
    """

    name: str
    isas: tuple[str, ...]
    isa: str
    sockets: int | None
    cores: int | None
    threads: int
    usable_threads: int
    quota: float | None
    default_threads: int
    caches: tuple[Cache, ...]


def read_processor(root: Path = Path("/")) -> Processor:
    """root: the folder that holds proc and sys. Raises InvalidRequestError where LINNET_ISA names what is not there."""
    from linnet import _core

    cpus = _online(root / "sys/devices/system/cpu")
    threads = len(cpus) or os.cpu_count() or 1
    return Processor(
        name=_name(root),
        isas=tuple(_core.available_isas()),
        isa=NativeOps(threads=1).context.isa,
        sockets=_distinct(cpus, "topology/physical_package_id"),
        cores=_distinct(cpus, "topology/thread_siblings_list"),
        threads=threads,
        usable_threads=usable_processors(),
        quota=processor_quota(root),
        default_threads=default_threads(root),
        caches=_caches(cpus),
    )


def _name(root: Path) -> str:
    for line in system_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    model = system_text(root / "sys/firmware/devicetree/base/model").strip("\0\n ")  # of ARM boards
    return model or platform.processor() or platform.machine() or "unknown"


def _online(folder: Path) -> list[Path]:
    """Folders of the processors that run: "0-2,4" is 0, 1, 2 and 4."""
    numbers: list[int] = []
    for part in system_text(folder / "online").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            numbers += range(int(first), int(last if last.isdecimal() else first) + 1)
    return [folder / f"cpu{number}" for number in numbers]


def _distinct(cpus: list[Path], file: str) -> int | None:
    """How many different texts processors have in a file: processors of one socket, or threads of one core, have the same."""
    return len({system_text(cpu / file) for cpu in cpus} - {""}) or None


def _caches(cpus: list[Path]) -> tuple[Cache, ...]:
    found = set()
    for cpu in cpus:
        for index in cpu.glob("cache/index*"):
            level, kind, size, shared = (system_text(index / name) for name in ("level", "type", "size", "shared_cpu_list"))
            if level.isdecimal() and size[:-1].isdecimal() and size[-1] in _UNITS:
                found.add((int(level), kind, int(size[:-1]) * _UNITS[size[-1]], shared))
    counts = Counter((level, kind, nbytes) for level, kind, nbytes, _ in found)
    return tuple(Cache(*cache, count) for cache, count in sorted(counts.items()))
