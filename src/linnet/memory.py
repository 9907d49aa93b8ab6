"""Memory of this process and of a device: how much Linnet and all else here has taken of it, and giving back what lies idle."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.ops.torch.devices import import_torch, open_device, parse_device
from linnet.system_files import system_bytes


def memory_usage(device: str | None = None) -> int:
    """Bytes that this process has in memory, mapped files that were read included; or, on a device that PyTorch drives ("cuda:1"),
    those that its tensors take there.

    Raises InvalidRequestError for a device that is not there or that does not tell, MissingDependencyError without PyTorch.
    """
    if device is None or parse_device(device)[0] == "cpu":
        return _resident_bytes()
    return int(_of_device(device, "memory_allocated", "current_allocated_memory"))


def clear_memory_cache(device: str | None = None) -> None:
    """Gives memory that was freed but is kept for later back to the system (glibc's; elsewhere it decides itself); or, on a device,
    what PyTorch keeps. `LLM.close` does it. Raises as `memory_usage` does."""
    gc.collect()
    if device is None or parse_device(device)[0] == "cpu":
        if sys.platform == "linux":
            with suppress(AttributeError, OSError):  # a C library other than glibc
                ctypes.CDLL(None).malloc_trim(0)
    else:
        _of_device(device, "empty_cache")


def _of_device(name: str, *functions: str) -> Any:
    """What the first of these functions that PyTorch has for a device gives; torch.cuda's take the device, but `empty_cache`."""
    device = open_device(name)
    torch = import_torch()
    module = getattr(torch, device.type)
    function = next(getattr(module, name) for name in functions if hasattr(module, name))
    if functions == ("empty_cache",) or device.type == "mps":
        return function()
    return function(device)


def _resident_bytes() -> int:
    resident = system_bytes(Path("/proc/self/status"), "VmRSS")
    if resident is not None:
        return resident
    if sys.platform == "win32":
        raise InvalidRequestError("memory_usage: this system does not tell without a device; name one that PyTorch drives")
    import subprocess  # only where there is no /proc

    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout) * 1024
