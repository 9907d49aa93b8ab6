"""What the kernel and its drivers tell in files. Linux has them; elsewhere they are missing, and nothing is known."""

from __future__ import annotations

import os
from pathlib import Path


def system_text(file: Path) -> str:
    """The text of a file, without white space around it; "" where there is none, or it cannot be read."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def system_bytes(file: Path, name: str) -> int | None:
    """What stands under a name in a file of lines such as `MemTotal:  16384 kB`, in bytes; None where it does not."""
    for line in system_text(file).splitlines():
        key, _, value = line.partition(":")
        if key == name and value.split()[:1] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    return None


def usable_processors() -> int:
    """Processors that this process may run on, hyperthreads counted one by one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
