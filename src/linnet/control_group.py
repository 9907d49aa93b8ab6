"""What Linux lets this process take: the limits of its control groups (containers, systemd's slices), version 2 and 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from linnet.system_files import system_text

MOUNT = "sys/fs/cgroup"

_UNLIMITED = 2**60
"""Version 1 writes the largest multiple of a page, rather than "max"."""


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the tightest of the groups may take; None: no limit. root: the folder that holds proc and sys."""
    return min((limit for limit, _ in _memory(root)), default=None)


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken in every group; None: no limit."""
    return min((max(0, limit - used) for limit, used in _memory(root)), default=None)


def processor_quota(root: Path = Path("/")) -> float | None:
    """Of how many processors' time the tightest of the groups gets; None: no limit."""
    return min(_quotas(root), default=None)


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes used that are not given back when memory is wanted) of every group that has one."""
    for folder in _groups(root, ""):
        yield from _limit_and_use(folder, "memory.max", "memory.current", "")
    for folder in _groups(root, "memory"):
        yield from _limit_and_use(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _limit_and_use(folder: Path, limit_file: str, use_file: str, prefix: str) -> Iterator[tuple[int, int]]:
    limit, used = system_text(folder / limit_file), system_text(folder / use_file)
    if not limit.isdecimal() or not used.isdecimal() or int(limit) >= _UNLIMITED:
        return
    parts = dict(line.split() for line in system_text(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    # Cached files count as used, model files that were just read among them, but are given back when memory is wanted.
    cached = sum(int(parts.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
    yield int(limit), max(0, int(used) - cached)


def _quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root, ""):
        quota, _, period = system_text(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)
    for folder in _groups(root, "cpu"):
        quota, period = system_text(folder / "cpu.cfs_quota_us"), system_text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # -1: no limit
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' group and of those around it, as far as they can be seen from here: a container sees its own as the
    outermost. controller: of version 1; "": version 2."""
    mount, own = root / MOUNT / controller, Path()
    for line in system_text(root / "proc/self/cgroup").splitlines():  # 4:cpu,cpuacct:/docker/1a2b, or of version 2 0::/user.slice
        names, _, path = line.partition(":")[2].partition(":")
        if controller in names.split(","):
            own = Path() if ".." in path else Path(path.lstrip("/"))
            mount = mount if mount.is_dir() else root / MOUNT / names
    yield from (mount / part for part in (own, *own.parents))
