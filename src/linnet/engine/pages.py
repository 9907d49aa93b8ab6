"""The pool of KV pages: who holds which. Knows no sequences, and of a model only how far its layers see."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from linnet.ops.base import PAGE_SIZE

GONE = -1
"""Stands in a sequence's pages for one that no layer of the group sees any longer."""

STATE = 0
"""The window of recurrent layers. A page of theirs is one state, after the last of its positions that came, and of use to the next
position alone; a step leaves those of the last two pages that it comes to (see `Ops.allocate_cache`)."""

Pages: TypeAlias = "list[list[int]]"
"""The pages of a sequence: of each group, in order of position."""


class PageGroup:
    """Pages 0 to count - 1 of layers that see `window` positions back (None: all; or STATE), each free or held by one or several. The page
    freed last is given out first, so untouched memory stays untouched.

    A page may be kept under a name: it is then found by it, and outlives its last holder until nothing else is free; of such pages
    the one that was let go first is given out first. To the caller they are as free as any.
    """

    def __init__(self, count: int, window: int | None = None) -> None:
        self.count, self.window = count, window
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
    def has_states(self) -> bool:
        return self.window == STATE

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
        self._redeemed -= sum(page != GONE and not self.is_shared(page) for page in pages)
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


class PagePool:
    """The pages of every group of layers, whose numbers are their own. counts: of each group; windows: how far it sees.

    has_states: whether any layer is recurrent: what such a layer computed cannot be taken back, nor computed a second time.
    """

    def __init__(self, counts: Sequence[int], windows: Sequence[int | None] = (None,)) -> None:
        self.groups = tuple(PageGroup(count, window) for count, window in zip(counts, windows, strict=True))
        self.has_states = any(group.has_states for group in self.groups)

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def free_count(self) -> int:
        return sum(group.free_count for group in self.groups)

    @property
    def idle_count(self) -> int:
        return sum(group.idle_count for group in self.groups)

    def has(self, counts: Sequence[int]) -> bool:
        """Whether so many pages are free in each group."""
        return all(count <= group.free_count for group, count in zip(self.groups, counts, strict=True))

    def no_pages(self) -> Pages:
        return [[] for _ in self.groups]

    def hold(self, pages: Pages) -> None:
        for group, held in zip(self.groups, pages, strict=True):
            group.hold(held)

    def free(self, pages: Pages) -> None:
        for group, held in zip(self.groups, pages, strict=True):
            group.free(held)


def pages_for(positions: int) -> int:
    """Pages that hold this many positions."""
    return -(-positions // PAGE_SIZE)


def most_pages(positions: int, window: int | None, rows: int) -> int:
    """Most pages that a sequence of so many positions holds at once, with at most `rows` of them in a step: those of a step, and what
    the first of these sees, wherever they lie on the pages; of states that which a step starts from, and the two that it leaves."""
    if window is None:
        return pages_for(positions)
    return min(pages_for(positions), 3 if window == STATE else pages_for(window + rows) + 1)


def pages_to_write(window: int | None, first: int, end: int) -> range:
    """Which pages a step writes whose rows lie on pages `first` to `end` - 1."""
    return range(max(first, end - 2) if window == STATE else first, end)


def passed_over(window: int | None, start: int, end: int) -> range:
    """Which page, if any, a step from position `start` to before `end` left as it was though it went on past it: a state in the middle of
    its page, which nothing goes on from any longer."""
    page = start // PAGE_SIZE
    left = window == STATE and start % PAGE_SIZE and page < pages_for(end) - 2
    return range(page, page + bool(left))


def first_page(position: int, window: int | None) -> int:
    """The first page that is of use to positions from `position` on, or to the one before, which may be computed again."""
    return 0 if window is None else max(0, position - max(window, 1)) // PAGE_SIZE
