"""A smaller model that guesses the next tokens of the main model (Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", 2023; here, unlike there, a guess is kept only if it is exactly the token that the main model draws)."""

from __future__ import annotations

import time
from collections import deque
from functools import partial

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import ModelSpec
from linnet.engine.batch import Rows, Tables, make_batch
from linnet.engine.pages import PageGroup
from linnet.engine.request import Sequence
from linnet.forward import forward
from linnet.ops.base import PAGE_SIZE, Ops, Step
from linnet.weights import Weights

Guesses = dict[Sequence, list[int]]


class DraftModel:
    """Runs the draft model for the sequences of an engine.

    It has a cache of its own, whose pages have the same numbers as those of the main model's first group of layers: a page that is shared,
    found, copied or freed there is so here too. Only how far each sequence is computed (`draft_computed`), and which pages are filled, is
    tracked separately. Both models have the same tokens (see linnet.draft); if one has more embedding rows, those are padding.
    """

    def __init__(self, ops: Ops, spec: ModelSpec, weights: Weights, kv_dtype: str) -> None:
        self.ops, self.spec, self.kv_dtype = ops, spec, kv_dtype
        self._run: Step | None = ops.stepper(spec, partial(forward, ops, spec, weights))
        self._filled: dict[int, int] = {}  # pages, and the edition that is filled
        self._times: deque[float] = deque(maxlen=5)

    def join(self, pages: PageGroup, vocab: int, rows: int) -> None:
        """Makes the cache, a page for each of `pages`, for a model with `vocab` logits; reads at most `rows` tokens in a step."""
        self.ops.allocate_cache(self.spec, [pages.count], self.kv_dtype)
        self._pages, self._vocab, self._rows = pages, vocab, rows

    def close(self) -> None:
        """Gives the cache and the weights back."""
        self.ops.free_cache()
        self._run = None

    @property
    def seconds(self) -> float:
        """How long one guess takes; 0 while it is not known (one measurement is not enough)."""
        return min(self._times) if len(self._times) > 1 else 0.0

    def guess(self, most: dict[Sequence, int], tables: Tables) -> Guesses:
        """Up to so many next tokens of each running sequence, whose pages have room for them. None for a sequence that still has more
        tokens to read than fit in a step."""
        guesses: Guesses = {sequence: [] for sequence in most}
        page_table, rope_lengths, prompt_lengths = tables
        own = page_table[:1], rope_lengths, prompt_lengths
        parts = self._unread(most)
        while parts:
            started = time.perf_counter()
            assert self._run is not None
            logits = self._run(make_batch(parts, own))
            parts, before = self._take(parts, logits, most, guesses), parts
            if all(len(part.tokens) == 1 for part in before):
                self._times.append((time.perf_counter() - started) / len(before))
        return guesses

    def settle(self, sequence: Sequence) -> None:
        """Forgets the keys and values of guesses that were wrong."""
        sequence.draft_computed = min(sequence.draft_computed, len(sequence.tokens) - sequence.start - 1)

    def _unread(self, sequences: dict[Sequence, int]) -> list[Rows]:
        """The tokens of each sequence that the draft model has not read, as far as a step goes."""
        parts, left = [], self._rows
        for sequence in sequences:
            seen = len(sequence.tokens) - sequence.start
            self.settle(sequence)  # for when Ctrl-C ended the last step between guess and settling
            if not sequence.draft_computed:
                sequence.draft_computed = self._found(sequence) * PAGE_SIZE
            count = min(seen - sequence.draft_computed, left)
            rows = Rows.of(sequence, sequence.draft_computed, count, wanted=int(sequence.draft_computed + count == seen))
            if count and max(rows.tokens) < self.spec.vocab_size:
                parts.append(rows)
                left -= count
        return parts

    def _found(self, sequence: Sequence) -> int:
        """How many pages hold the sequence's beginning already, but never its last token."""
        count = (len(sequence.tokens) - sequence.start - 1) // PAGE_SIZE
        for index, page in enumerate(sequence.pages[0][:count]):
            if self._filled.get(page) != self._pages.edition(page):
                return index
        return count

    def _take(self, parts: list[Rows], logits: NDArray[np.float32], most: dict[Sequence, int], guesses: Guesses) -> list[Rows]:
        """What a step found, and the rows of the next one."""
        following, row = [], 0
        for part in parts:
            sequence, guessed = part.sequence, guesses[part.sequence]
            sequence.draft_computed = part.position + len(part.tokens)
            if not guessed:  # what it has read is the sequence's own; of earlier guesses that came there is less than a page
                for index in range(max(0, part.position // PAGE_SIZE - 1), sequence.draft_computed // PAGE_SIZE):
                    page = sequence.pages[0][index]
                    self._filled[page] = self._pages.edition(page)
            if not part.wanted:
                continue
            token = self._choose(sequence, logits[row], len(guessed))
            row += 1
            if token is not None:
                guessed.append(token)
                if len(guessed) < most[sequence]:
                    following.append(Rows(sequence, sequence.draft_computed, [token], part.tokens[-1], 1))
        return following

    def _choose(self, sequence: Sequence, logits: NDArray[np.float32], ahead: int) -> int | None:
        """A guess, drawn as the token itself will be."""
        if len(logits) < self._vocab:
            logits = np.pad(logits, (0, self._vocab - len(logits)), constant_values=-np.inf)
        return sequence.sampler.guess(logits[: self._vocab], len(sequence.tokens) + ahead, sequence.generated + ahead)
