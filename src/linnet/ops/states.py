"""Where recurrent layers find the state that a step starts from, and leave those that later steps may start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from linnet.ops.base import PAGE_SIZE, Batch


@dataclass(frozen=True)
class StateRun:
    """The rows of one sequence in a batch.

    source: the page that holds the state before the first; None: there is none, it is zeros. saved: rows, counted from the first,
    after which the state is written, and to which page: after the last row, and after the page before that one's, if this step filled it.
    """

    rows: slice
    source: int | None
    saved: tuple[tuple[int, int], ...]


def state_runs(batch: Batch, group: int) -> Iterator[StateRun]:
    """Of every sequence that has rows in the batch, in a group of recurrent layers."""
    starts = np.flatnonzero(np.diff(batch.sequence, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(batch.sequence)], strict=True):
        pages = batch.page_table[group, batch.sequence[start]]
        first, last = int(batch.positions[start]), int(batch.positions[stop - 1])
        end = last // PAGE_SIZE
        saved = [(stop - 1 - start, int(pages[end]))]
        if end * PAGE_SIZE > first:
            saved.insert(0, (end * PAGE_SIZE - 1 - first, int(pages[end - 1])))
        assert all(page >= 0 for _, page in saved), "a state without a page"
        yield StateRun(slice(start, stop), int(pages[(first - 1) // PAGE_SIZE]) if first else None, tuple(saved))
