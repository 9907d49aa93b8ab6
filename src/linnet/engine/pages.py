"""The pool of KV pages: who holds which, and how many memory allows. Knows no sequences."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from linnet.arch.spec import ModelSpec
from linnet.control_group import memory_left
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


GONE = -1
"""Stands in a sequence's pages for one that no layer sees any longer."""


class PagePool:
    """Pages 0 to count - 1, each free or held by one or several. The page freed last is given out first, so untouched memory stays
    untouched.

    A page may be kept under a name: it is then found by it, and outlives its last holder until nothing else is free; of such pages
    the one that was let go first is given out first. To the caller they are as free as any.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._returned: list[int] = []
        self._holders: list[int] = []  # of every page given out so far; those after them are untouched, however many
        self._editions: list[int] = []  # likewise
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, and held by nobody
        self.promised = 0
        self._redeemed = 0  # promised pages that are given out

    @property
    def free_count(self) -> int:
        return self.count - len(self._holders) + len(self._returned) + len(self._idle) - (self.promised - self._redeemed)

    @property
    def idle_count(self) -> int:
        """How many of the free ones are kept, lest somebody ask for them by name."""
        return min(len(self._idle), self.free_count)

    def allocate(self, count: int) -> list[int]:
        """`count` pages, held once; the caller has checked `free_count`."""
        assert count <= self.free_count
        return [self._give() for _ in range(count)]

    def promise(self, count: int) -> None:
        """Promises so many free pages more, or, if negative, so many of those that are not given out less."""
        assert self._redeemed - self.promised <= count <= self.free_count
        self.promised += count

    def allocate_promised(self) -> int:
        """One of the promised pages, held once."""
        assert self._redeemed < self.promised
        self._redeemed += 1
        return self._give()

    def free_promised(self, pages: Sequence[int]) -> None:
        """One holder less for each of these promised pages; what nobody holds any longer is still promised."""
        self._redeemed -= sum(not self.is_shared(page) for page in pages)
        self.free(pages)

    def _give(self) -> int:
        if self._returned:
            page = self._returned.pop()
        elif len(self._holders) < self.count:
            page = len(self._holders)
            self._holders.append(0)
            self._editions.append(0)
        else:
            page, _ = self._idle.popitem(last=False)
            self.forget(page)
        self._holders[page] = 1
        self._editions[page] += 1
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for each of the pages, which are held or named."""
        for page in pages:
            if page != GONE:
                self._holders[page] += 1
                self._idle.pop(page, None)

    def free(self, pages: Sequence[int]) -> None:
        """One holder less for each page. The last ones go first, as a text's end is of use only with its beginning."""
        for page in reversed(pages):
            if page == GONE:
                continue
            assert self._holders[page] > 0, "a page freed twice"
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._names:
                self._idle[page] = None
            else:
                self._returned.append(page)

    def edition(self, page: int) -> int:
        """How often a page was given out afresh: tells what it holds from what it held before."""
        return self._editions[page]

    def is_shared(self, page: int) -> bool:
        return self._holders[page] > 1

    def find(self, name: bytes) -> int | None:
        return self._named.get(name)

    def keep(self, page: int, name: bytes) -> None:
        """Names a held page; the first page of a name keeps it."""
        if name not in self._named and page not in self._names:
            self._named[name] = page
            self._names[page] = name

    def forget(self, page: int) -> None:
        """Takes a page's name away, if it has one: its content is about to change."""
        name = self._names.pop(page, None)
        if name is not None:
            del self._named[name]


def pages_for(positions: int) -> int:
    """Pages that hold this many positions."""
    return -(-positions // PAGE_SIZE)


def common_window(spec: ModelSpec, draft: ModelSpec | None) -> int | None:
    """How many positions back the farthest-seeing layer sees, or None where one sees all: pages before that are given back.

    One page table serves all layers, so that a single layer that sees all keeps every page of every layer; and a draft model of the same
    pages, which may have to read what it missed, keeps them too."""
    windows = [layer.attention.window for layer in spec.layers]
    if spec.bidirectional_prompt or draft is not None or not windows:
        return None
    return None if None in windows else max(window for window in windows if window is not None)


def most_pages(positions: int, window: int | None, rows: int) -> int:
    """Most pages that a sequence of so many positions holds at once, with at most `rows` of them in a step: those of a step, and what
    the first of these sees, wherever they lie on the pages."""
    return pages_for(positions) if window is None else min(pages_for(positions), pages_for(window + rows) + 1)


def first_page(position: int, window: int | None) -> int:
    """The first page that is of use to positions from `position` on, or to the one before, which may be computed again."""
    return 0 if window is None else max(0, position - window) // PAGE_SIZE


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
    spec: ModelSpec,
    kv_dtype: str,
    context: int | None,
    max_batch: int,
    kv_memory: int | None,
    reserved: int = 0,
    memory: int | None = None,
    draft: ModelSpec | None = None,
    prefill_chunk: int = 512,
) -> tuple[int, int]:
    """(pages, context): enough pages for `max_batch` sequences of `context`, as far as `kv_memory` bytes go (None: 40% of the
    `memory` bytes that are available, besides `reserved` ones; memory: None: what the machine has). Where no context is asked
    for, it is the model's, or as much of it as one sequence can have. draft: a model whose cache has as many pages, out of the
    same bytes. prefill_chunk: most rows of a sequence in a step.

    Raises OutOfMemoryError when not even one sequence of the asked-for context fits.
    """
    each = max(1, sum(page_bytes(model, kv_dtype) for model in (spec, draft) if model is not None))
    window = common_window(spec, draft)
    budget = cache_budget(reserved, memory) if kv_memory is None else kv_memory
    affordable = budget // each
    needed = 1 if context is None else most_pages(context, window, prefill_chunk)
    if affordable < needed:
        whose = "available for it" if kv_memory is None else "allowed by kv_memory"
        raise OutOfMemoryError(
            f"the KV cache of one sequence of {needed * PAGE_SIZE} tokens takes {needed * each} bytes and {budget} are {whose}; "
            "lower context, raise kv_memory or choose a smaller kv_dtype"
        )
    if context is None:
        context = (
            spec.context if most_pages(spec.context, window, prefill_chunk) <= affordable else min(spec.context, affordable * PAGE_SIZE)
        )
        if context < spec.context:
            logger.warning("context is %d of the model's %d: that is what %d bytes of KV cache hold", context, spec.context, budget)
    pages = min(most_pages(context, window, prefill_chunk) * max_batch, affordable)
    logger.info("KV cache: %d pages of %d bytes (%s), %d in all; context %d", pages, each, kv_dtype, pages * each, context)
    return pages, context


def cache_budget(reserved: int, memory: int | None = None) -> int:
    """Bytes that the pool may take where no `kv_memory` is given, of `memory` bytes besides `reserved` ones of weights; memory:
    None: what the machine has available."""
    return max(0, int(((available_memory() if memory is None else memory) - reserved) * MEMORY_SHARE))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping: the smallest of the machine's, the control groups' and what `ulimit -v` leaves (Linux),
    or the installed memory where the system says no more. root: the folder that holds proc and sys."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return _installed_memory()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
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
    import os

    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined,unused-ignore]
    return kilobytes.value * 1024
