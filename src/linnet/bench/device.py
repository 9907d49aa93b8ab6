"""What a device that PyTorch drives can do, and what is taken of its memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from linnet.bench import machine
from linnet.bench.machine import Machine
from linnet.ops.torch.devices import import_torch

if TYPE_CHECKING:
    from torch import device as Device
    from torch import dtype as DType

COPIED = {"cpu": 2**24}
MULTIPLIED = {"cpu": 256}
"""By kind of device; where it does not say: 1 GB, several times the largest caches, and matrices of 8192 x 8192."""


def measure_device(device: Device, dtype: DType) -> Machine:
    """Measures a device, for about a second: what it copies, read and written together, and what a product of large matrices of `dtype`
    does, whatever weights are stored as: they are multiplied in it."""
    torch = import_torch()
    named = getattr(getattr(torch, device.type, None), "get_device_name", None)
    name = str(device) if named is None else str(named(device))
    peak = matrix_rate(device, dtype)
    return Machine(0, f"{name} in {str(dtype).removeprefix('torch.')}", copy_bandwidth(device), peak, peak, device)


def copy_bandwidth(device: Device) -> float:
    """Bytes a second, read and written together."""
    torch, nbytes = import_torch(), COPIED.get(device.type, 2**30)
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / seconds(device, lambda: target.copy_(source))


def matrix_rate(device: Device, dtype: DType) -> float:
    """Multiply-adds a second of a product of two large matrices."""
    torch, size = import_torch(), MULTIPLIED.get(device.type, 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return float(size**3 / seconds(device, lambda: a @ b))


def seconds(device: Device, work: Callable[[], object], reps: int = 10) -> float:
    """Median, after two runs that do not count."""
    times = []
    for _ in range(reps + 2):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def wait(device: Device) -> None:
    """Until the device has done all that it was asked for."""
    synchronize = _function(device, "synchronize")
    if synchronize is not None and device.type != "cpu":
        synchronize(*(() if device.type == "mps" else (device,)))  # of which there is one


def reset_peak_memory(device: Device | None) -> None:
    """Lets `peak_memory` begin anew. device: None: the processor, whatever computes there."""
    if device is None or device.type == "cpu":
        machine.reset_peak_memory()
    elif (reset := _function(device, "reset_peak_memory_stats")) is not None:
        reset(device)


def peak_memory(device: Device | None) -> int | None:
    """Most bytes that were taken at once since `reset_peak_memory`: of a device, by tensors; None where nobody tells."""
    if device is None or device.type == "cpu":
        return machine.peak_memory()
    peak = _function(device, "max_memory_allocated")
    return None if peak is None else int(peak(device))


def _function(device: Device, name: str) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = getattr(getattr(import_torch(), device.type, None), name, None)
    return found
