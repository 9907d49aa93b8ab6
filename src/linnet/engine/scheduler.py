"""Which sequences run in the next step, and how many tokens of each. First come, first served."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from linnet.engine.pages import PagePool, pages_for
from linnet.engine.request import Sequence


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a sequence, from `sequence.computed` on, and logits of the last `wanted` of them."""

    sequence: Sequence
    count: int
    wanted: int


FIRST_WIDTH = 4096
"""Pages of a row of the page table at first; it grows with requests, not with what a file claims to be its context."""


class Scheduler:
    """Continuous batching (Yu et al., Orca, 2022): every running sequence that only lacks its last token gets that
    row in every step; the others share `prefill_chunk` rows. Where `whole_prompts`, none is cut: one that is longer has a step of
    its own. A sequence is admitted when pages for all that it can ever need are free, so nothing that runs is ever preempted.

    page_table, int32 [max_batch, widest], rope_lengths and prompt_lengths, int32 [max_batch], hold one row per running
    sequence, in the form that `Batch` takes.
    """

    def __init__(
        self, pool: PagePool, context: int, max_batch: int, prefill_chunk: int, logit_rows: int, whole_prompts: bool = False
    ) -> None:
        self.pool = pool
        self.context = context
        self.prefill_chunk, self.whole_prompts = prefill_chunk, whole_prompts
        self.logit_rows = logit_rows
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.page_table = np.full((max_batch, min(pages_for(context), FIRST_WIDTH)), -1, np.int32)
        self.rope_lengths, self.prompt_lengths = np.zeros((2, max_batch), np.int32)
        self._slots = list(range(max_batch - 1, -1, -1))

    def plan(self) -> list[Chunk]:
        """The next step; empty when nothing runs or waits."""
        while self.waiting and self._slots and self.waiting[0].need <= self.pool.free_count:
            self._admit(self.waiting.popleft())
        chunks = []
        tokens_left, rows_left = self.prefill_chunk, self.logit_rows
        for sequence in self.running:
            lacking = sequence.lacking
            count = self._count(sequence, tokens_left, rows_left)
            if sequence.scores_prompt:
                rows_left = max(0, rows_left - count)
                wanted = count
            else:
                wanted = int(count == lacking)
            if lacking > 1:
                tokens_left = max(0, tokens_left - count)
            if count:
                chunks.append(Chunk(sequence, count, wanted))
        return chunks

    def _count(self, sequence: Sequence, tokens_left: int, rows_left: int) -> int:
        """How many tokens of a sequence run in a step that has room for so many more of prompts, and rows of prompt logits."""
        lacking = sequence.lacking
        count = lacking if lacking == 1 else min(lacking, tokens_left)
        if sequence.scores_prompt:
            count = min(count, rows_left)
        if count < lacking and self.whole_prompts:
            untouched = (tokens_left, rows_left) == (self.prefill_chunk, self.logit_rows)
            return lacking if untouched else 0
        return count

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it stands, and frees what it held."""
        if sequence.slot < 0:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.pool.free(sequence.pages)
        self.page_table[sequence.slot] = -1
        self._slots.append(sequence.slot)
        sequence.slot, sequence.pages = -1, []

    def _admit(self, sequence: Sequence) -> None:
        sequence.slot = self._slots.pop()
        sequence.pages = self.pool.allocate(sequence.need)
        lacking = sequence.need - self.page_table.shape[1]
        if lacking > 0:
            self.page_table = np.pad(self.page_table, ((0, 0), (0, lacking)), constant_values=-1)
        self.page_table[sequence.slot, : sequence.need] = sequence.pages
        self.rope_lengths[sequence.slot] = min(self.context, len(sequence.request.prompt) + sequence.limit)
        self.prompt_lengths[sequence.slot] = len(sequence.request.prompt)
        self.running.append(sequence)
