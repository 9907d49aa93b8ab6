"""`hardware_info`: the machine, as far as it matters to running a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linnet.bench.machine import read_bandwidth
from linnet.control_group import memory_limit
from linnet.hardware.gpus import Gpu, read_gpus
from linnet.hardware.processor import Processor, read_processor
from linnet.machine_memory import available_memory
from linnet.system_files import system_bytes


@dataclass(frozen=True)
class HardwareInfo:
    """The machine.

    memory_bytes: installed, None where the system does not tell; memory_limit: what a container (control group) may take, None: no
    limit; available_bytes: what can be taken now, by both. read_bandwidth: bytes a second that `processor.default_threads` threads
    read from memory in order, measured; None where it was not. notes: what kept anything from being told.
    """

    processor: Processor
    memory_bytes: int | None
    memory_limit: int | None
    available_bytes: int
    read_bandwidth: float | None
    gpus: list[Gpu]
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


def hardware_info(measure: bool = True, root: Path = Path("/")) -> HardwareInfo:
    """What `linnet info` prints. measure: reads memory for about half a second, to say how fast it is. root: the folder that holds the
    system's proc and sys. Raises InvalidRequestError where LINNET_ISA names an instruction set that is not there."""
    processor = read_processor(root)
    gpus, notes = read_gpus(root)
    return HardwareInfo(
        processor=processor,
        memory_bytes=system_bytes(root / "proc/meminfo", "MemTotal"),
        memory_limit=memory_limit(root),
        available_bytes=available_memory(root),
        read_bandwidth=read_bandwidth(processor.default_threads) if measure else None,
        gpus=gpus,
        notes=notes,
    )
