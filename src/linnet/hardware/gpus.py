"""GPUs: what nvidia-smi tells of NVIDIA's and the system's files of others, and what PyTorch finds, which is what Linnet can use."""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from linnet.hardware.gpu_files import read_gpu_files

_FIELDS = ("uuid", "name", "driver_version", "memory.total", "memory.free", "utilization.gpu", "temperature.gpu")
_TIMEOUT = 20.0
_KINDS = ("cuda", "mps", "xpu")


@dataclass(frozen=True)
class Gpu:
    """device: what `LLM(device=)` calls it; None where PyTorch, which drives GPUs here, is not installed or does not find it.

    total_bytes, free_bytes: of its memory. load: of its time, in percent; temperature: degrees Celsius. None: not told.
    """

    name: str
    device: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    load: float | None = None
    temperature: float | None = None


def read_gpus(root: Path = Path("/")) -> tuple[list[Gpu], list[str]]:
    """The GPUs, and what kept any of them from being told of, in words. Imports PyTorch if it is installed. root: the folder that holds
    the system's files."""
    gpus, notes = _nvidia()
    for told in read_gpu_files(root):
        gpus[told.address] = Gpu(told.name, None, told.driver, told.total_bytes, told.free_bytes, told.load, told.temperature)
    if find_spec("torch") is None:
        return list(gpus.values()), [*notes, *(['GPUs are used through PyTorch: pip install "linnet[torch]"'] if gpus else [])]
    found = _torch_devices()
    for key, gpu in found.items():
        gpus[key] = _joined(gpus[key], gpu) if key in gpus else gpu
    if gpus and not found:
        notes.append("PyTorch, as it is installed, finds none of these GPUs: it may be a build for processors alone")
    return list(gpus.values()), notes


def _joined(told: Gpu, found: Gpu) -> Gpu:
    """What the system tells of a GPU, and PyTorch, which knows its name here and may know its memory better."""
    total, free = told.total_bytes or found.total_bytes, found.free_bytes if told.free_bytes is None else told.free_bytes
    return replace(told, device=found.device, total_bytes=total, free_bytes=free)


def _nvidia() -> tuple[dict[str, Gpu], list[str]]:
    """By uuid."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}, []
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, [f"nvidia-smi failed: {error}"]
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        return {}, [f"nvidia-smi failed with exit code {done.returncode}: {said[0][:200]}"]
    gpus = {}
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        if len(row) != len(_FIELDS):
            return {}, [f"nvidia-smi gave {len(row)} fields where {len(_FIELDS)} were asked for"]
        uuid, name, driver = row[:3]
        total, free, load, temperature = map(_number, row[3:])
        gpus[uuid.removeprefix("GPU-")] = Gpu(name, None, driver, _mebibytes(total), _mebibytes(free), load, temperature)
    return gpus, []


def _number(text: str) -> float | None:
    """None for "[N/A]" and its like."""
    try:
        return float(text)
    except ValueError:
        return None


def _mebibytes(count: float | None) -> int | None:
    return None if count is None else int(count * 2**20)


def _torch_devices() -> dict[str, Gpu]:
    """By uuid, or its address on the PCI bus for those that the system's files tell of, or the device's name where it has neither."""
    from linnet.ops.torch.devices import free_memory, import_torch, open_device

    torch = import_torch()
    found = {}
    for kind in _KINDS:
        module: Any = getattr(torch.backends if kind == "mps" else torch, kind, None)
        if module is None or not module.is_available():
            continue
        if kind == "mps":
            found["mps"] = Gpu("Apple GPU", "mps", total_bytes=int(torch.mps.recommended_max_memory()))
            continue
        for index in range(module.device_count()):
            properties, device = module.get_device_properties(index), f"{kind}:{index}"
            free = free_memory(open_device(device))
            gpu = Gpu(properties.name, device, total_bytes=int(properties.total_memory), free_bytes=free)
            found[_key(torch, properties, device)] = gpu
    return found


def _key(torch: Any, properties: Any, device: str) -> str:
    places: list[Any] = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if (device.startswith("xpu") or torch.version.hip) and None not in places:
        return "{:04x}:{:02x}:{:02x}.0".format(*places)
    return str(getattr(properties, "uuid", device))


def device_bandwidth(device: str, nbytes: int = 2**28, passes: int = 7) -> float:
    """Bytes a second that a device of PyTorch's reads from its memory in order: the best of `passes` sums over `nbytes`."""
    from linnet.ops.torch.devices import import_torch, open_device

    torch, opened = import_torch(), open_device(device)
    values = torch.ones(nbytes // 4, device=opened)
    best = float("inf")
    for _ in range(passes):
        start = time.perf_counter()
        values.sum().item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return nbytes / best
