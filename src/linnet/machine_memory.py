"""What can be taken of the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path

from linnet.control_group import memory_left
from linnet.system_files import system_bytes


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping: the smallest of the machine's, the control groups' and what `ulimit -v` leaves (Linux),
    or the installed memory where the system says no more. root: the folder that holds proc and sys."""
    available = system_bytes(root / "proc/meminfo", "MemAvailable")
    if available is None:  # elsewhere than on Linux; where it is imitated
        return _installed_memory()
    limits = (memory_left(root), _address_space_left(root / "proc/self/statm"))
    return min([available, *(left for left in limits if left is not None)])


def _address_space_left(statm: Path) -> int | None:
    """Bytes that this process may map beside what it has, None: as many as it likes."""
    try:
        import resource

        limit, pages = resource.getrlimit(resource.RLIMIT_AS)[0], int(statm.read_text().split()[0])
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(0, limit - pages * resource.getpagesize())


def _installed_memory() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined,unused-ignore]
    return kilobytes.value * 1024
