"""The pool of KV pages: which are free, and how many memory allows. Knows no sequences."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from linnet.arch.spec import ModelSpec
from linnet.errors import OutOfMemoryError
from linnet.ops.base import KV_DTYPES, PAGE_SIZE

logger = logging.getLogger("linnet.engine")

KV_BYTES = {"f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "f32": 4.0}
"""Bytes of one stored key or value entry, by kv_dtype; with its share of the scale of its block of 32."""
assert set(KV_BYTES) == set(KV_DTYPES)

VALUE_LANES = 16
"""Values of a head are stored in whole vectors of this many entries (csrc/kernels/kernels.h)."""

MEMORY_SHARE = 0.4
"""The part of the available memory that the pool may take when no `kv_memory` is given."""


class PagePool:
    """Pages 0 to count - 1. The page freed last is given out first, so untouched memory stays untouched."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._returned: list[int] = []
        self._untouched = 0  # this page and those after it were never given out; a list of them all may take gigabytes

    @property
    def free_count(self) -> int:
        return self.count - self._untouched + len(self._returned)

    def allocate(self, count: int) -> list[int]:
        """`count` pages; the caller has checked `free_count`."""
        assert count <= self.free_count
        pages = [self._returned.pop() for _ in range(min(count, len(self._returned)))]
        first = self._untouched
        self._untouched += count - len(pages)
        return [*pages, *range(first, self._untouched)]

    def free(self, pages: Iterable[int]) -> None:
        self._returned.extend(pages)


def pages_for(positions: int) -> int:
    """Pages that hold this many positions."""
    return -(-positions // PAGE_SIZE)


def page_bytes(spec: ModelSpec, kv_dtype: str) -> int:
    """Bytes of one page: keys and values of PAGE_SIZE positions in every layer, the values of a head padded to VALUE_LANES."""
    each = 0.0
    for attention in (layer.attention for layer in spec.layers):
        padded = -(-attention.value_head_dim // VALUE_LANES) * VALUE_LANES
        if kv_dtype == "q8_0":
            blocks = -(-attention.head_dim // 32) + -(-attention.value_head_dim // 32)
            each += attention.kv_heads * (attention.head_dim + padded + 2 * blocks)
        else:
            each += attention.kv_heads * (attention.head_dim + padded) * KV_BYTES[kv_dtype]
    return int(each) * PAGE_SIZE


def plan_pages(
    spec: ModelSpec, kv_dtype: str, context: int | None, max_batch: int, kv_memory: int | None, reserved: int = 0
) -> tuple[int, int]:
    """(pages, context): enough pages for `max_batch` sequences of `context`, as far as `kv_memory` bytes go (None: 40% of
    what the machine has available besides `reserved` bytes). Where no context is asked for, it is the model's, or as much
    of it as one sequence can have.

    Raises OutOfMemoryError when not even one sequence of the asked-for context fits.
    """
    each = max(1, page_bytes(spec, kv_dtype))
    budget = cache_budget(reserved) if kv_memory is None else kv_memory
    affordable = budget // each
    needed = 1 if context is None else pages_for(context)
    if affordable < needed:
        whose = "available for it" if kv_memory is None else "allowed by kv_memory"
        raise OutOfMemoryError(
            f"the KV cache of one sequence of {needed * PAGE_SIZE} tokens takes {needed * each} bytes and {budget} are {whose}; "
            "lower context, raise kv_memory or choose a smaller kv_dtype"
        )
    if context is None:
        context = min(spec.context, affordable * PAGE_SIZE)
        if context < spec.context:
            logger.warning("context is %d of the model's %d: that is what %d bytes of KV cache hold", context, spec.context, budget)
    pages = min(pages_for(context) * max_batch, affordable)
    logger.debug("KV cache: %d pages of %d bytes (%s), context %d", pages, each, kv_dtype, context)
    return pages, context


def cache_budget(reserved: int) -> int:
    """Bytes that the pool may take where no `kv_memory` is given, besides `reserved` bytes of weights."""
    return max(0, int((available_memory() - reserved) * MEMORY_SHARE))


def available_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken without swapping: the smaller of the machine's and the control group's (Linux), or
    the installed memory where the system says no more."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _installed_memory()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit = (control_group / "memory.max").read_text().strip()
        used = int((control_group / "memory.current").read_text())
        parts = dict(line.split() for line in (control_group / "memory.stat").read_text().splitlines())
    except OSError:
        return available
    # Cached files count as used, model files that were just read among them, but are given back when memory is wanted.
    used -= int(parts.get("inactive_file", 0)) + int(parts.get("active_file", 0))
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def _installed_memory() -> int:
    import os

    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined,unused-ignore]
    return kilobytes.value * 1024
