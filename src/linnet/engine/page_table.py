"""The pages of running sequences, and the rows that batches find them by. Decides nothing: who runs, and who gives way, is the
scheduler's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnet.engine.batch import Tables
from linnet.engine.pages import GONE, PageGroup, PagePool, first_page, pages_for, pages_to_write
from linnet.engine.request import Sequence
from linnet.ops.base import PAGE_SIZE

FIRST_WIDTH = 4096
"""Pages of a row at first; the table grows with requests, not with what a file claims to be its context."""


class PageTable:
    """A slot, which is a row in each table, for each of up to `max_batch` running sequences.

    entries, int32 [groups, max_batch, widest], rope_lengths and prompt_lengths, int32 [max_batch], have the form that `Batch` takes; -1
    stands where a sequence has no page. copy_page: called as (source, target, group).
    """

    def __init__(self, pool: PagePool, context: int, max_batch: int, copy_page: Callable[[int, int, int], None]) -> None:
        self.pool, self.copy_page = pool, copy_page
        self.entries = np.full((len(pool.groups), max_batch, min(pages_for(context), FIRST_WIDTH)), -1, np.int32)
        self.rope_lengths, self.prompt_lengths = np.zeros((2, max_batch), np.int32)
        self._slots = list(range(max_batch - 1, -1, -1))

    @property
    def tables(self) -> Tables:
        """What a batch says of every running sequence."""
        return self.entries, self.rope_lengths, self.prompt_lengths

    @property
    def free_slots(self) -> int:
        return len(self._slots)

    def rope_length(self, sequence: Sequence) -> int:
        """Of a running sequence."""
        return int(self.rope_lengths[sequence.slot])

    def seat(self, sequence: Sequence, rope_length: int) -> None:
        """Gives a sequence a slot, with the pages that it has."""
        slot = sequence.slot = self._slots.pop()
        lacking = pages_for(rope_length) - self.entries.shape[2]
        if lacking > 0:
            self.entries = np.pad(self.entries, ((0, 0), (0, 0), (0, lacking)), constant_values=-1)
        for entries, pages in zip(self.entries, sequence.pages, strict=True):
            entries[slot, : len(pages)] = np.maximum(pages, 0)  # any page will do for what nothing reads
        self.rope_lengths[slot] = rope_length
        self.prompt_lengths[slot] = len(sequence.request.prompt)

    def unseat(self, sequence: Sequence) -> None:
        """Takes its slot and its pages away."""
        self.pool.free(sequence.pages)
        self.entries[:, sequence.slot] = -1
        self._slots.append(sequence.slot)
        sequence.slot, sequence.pages, sequence.draft_computed = -1, [], 0

    def begin_anew(self, sequence: Sequence) -> None:
        """Takes its pages away where it is to be computed from its start, and some of these were given back."""
        if not sequence.computed and any(GONE in pages for pages in sequence.pages):
            self.pool.free(sequence.pages)
            sequence.pages = self.pool.no_pages()
            self.entries[:, sequence.slot] = -1

    def pages_to_own(self, sequence: Sequence, number: int, group: PageGroup, count: int) -> range:
        """Which pages of a group the next `count` positions of a sequence are written to; those that are passed over are GONE."""
        pages, computed = sequence.pages[number], sequence.computed
        written = pages_to_write(group.window, computed // PAGE_SIZE, pages_for(computed + count))
        pages += [GONE] * (written.start - len(pages))
        return written

    def own(self, sequence: Sequence, number: int, group: PageGroup, index: int) -> bool:
        """Sees to it that nobody else reads the page at `index` in that group from now on; False where it takes a page to do so, and none
        is free."""
        pages = sequence.pages[number]
        page = pages[index] if index < len(pages) else None
        if page is not None and not group.is_shared(page):
            group.forget(page)
            return True
        if not group.free_count:
            return False
        [fresh] = group.allocate(1)
        if page is None:
            pages.append(fresh)
        else:
            if sequence.computed > index * PAGE_SIZE:
                self.copy_page(page, fresh, number)
            group.free([page])
            pages[index] = fresh
        self.entries[number, sequence.slot, index] = fresh
        return True

    def give_back(self, sequence: Sequence) -> None:
        """Frees pages that no layer sees any longer."""
        for group, pages in zip(self.pool.groups, sequence.pages, strict=True):
            unseen = first_page(sequence.computed, group.window)
            if unseen and (pages[unseen - 1] != GONE or (group.has_states and pages.count(GONE) < unseen)):
                group.free(pages[:unseen])
                pages[:unseen] = [GONE] * unseen

    def trim(self, sequence: Sequence) -> None:
        """Frees pages that only guesses needed, of a sequence that still runs."""
        kept = pages_for(len(sequence.tokens) - sequence.start)
        if sequence.slot >= 0 and any(len(pages) > kept for pages in sequence.pages):
            self.pool.free([pages[kept:] for pages in sequence.pages])
            sequence.pages = [pages[:kept] for pages in sequence.pages]
            self.entries[:, sequence.slot, kept:] = -1
