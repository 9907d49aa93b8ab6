"""Which pages hold the beginnings of prompts: whole pages, named by all tokens so far, in every group of layers alike."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

import numpy as np

from linnet.arch.rope import effective_length, is_length_dependent
from linnet.arch.spec import ModelSpec
from linnet.engine.pages import GONE, PagePool, Pages, first_page
from linnet.engine.request import Sequence
from linnet.ops.base import PAGE_SIZE


class PrefixCache:
    """Finds and names pages of one model's pool.

    A name is the SHA-256 of the previous page's name and this page's tokens. The first follows from what else keys and values depend
    on: the model (which a secret of this pool stands for, so that nobody can look for collisions beforehand), the adapter, and the
    length class of every rope.
    """

    def __init__(self, pool: PagePool, spec: ModelSpec) -> None:
        self.pool = pool
        self._model = secrets.token_bytes(32)
        ropes = {rope: None for attention in spec.attentions for rope in attention.ropes}
        self._varying = [rope for rope in ropes if is_length_dependent(rope)]

    @staticmethod
    def suits(spec: ModelSpec) -> bool:
        """Whether keys and values depend on the tokens before them alone; with a prompt that sees both ways, or positions that count
        from its end, they depend on all of it."""
        counted = any(rope.positions != "absolute" for attention in spec.attentions for rope in attention.ropes)
        return not spec.bidirectional_prompt and not counted

    def find(self, sequence: Sequence, rope_length: int) -> tuple[Pages, int]:
        """The pages that hold the sequence's beginning, but never its last token, whose logits are still to come; and how many there
        are in each group, GONE counted, which stands for those that nothing after them sees."""
        groups = self.pool.groups
        found, together, best = self.pool.no_pages(), [0] * len(groups), 0
        for index in range(_findable(sequence)):
            name = self._name(sequence, index, rope_length)
            suffices = True
            for number, group in enumerate(groups):
                page = group.find(name)
                if page is None and group.window is None:
                    return _up_to(best, found, self.pool), best
                found[number].append(GONE if page is None else page)
                together[number] = 0 if page is None else together[number] + 1
                suffices &= together[number] > index - first_page((index + 1) * PAGE_SIZE, group.window)
            if suffices:
                best = index + 1
        return _up_to(best, found, self.pool), best

    def is_coming(self, sequence: Sequence, index: int, rope_length: int, others: Iterable[tuple[Sequence, int]]) -> bool:
        """Whether one of the others, given with their rope lengths, is yet to fill the page that a sequence needs at `index`."""
        if index >= _findable(sequence):
            return False
        name = self._name(sequence, index, rope_length)
        fill = ((other, length) for other, length in others if _shares(other) and other.computed // PAGE_SIZE <= index)
        return any(index < len(other.tokens) // PAGE_SIZE and self._name(other, index, length) == name for other, length in fill)

    def store(self, sequence: Sequence, rope_length: int) -> None:
        """Names the pages that the sequence has filled since the last call."""
        if _shares(sequence):
            for index in range(sequence.named, sequence.computed // PAGE_SIZE):
                for group, pages in zip(self.pool.groups, sequence.pages, strict=True):
                    if pages[index] != GONE:
                        group.keep(pages[index], self._name(sequence, index, rope_length))
        sequence.named = sequence.computed // PAGE_SIZE

    def _name(self, sequence: Sequence, index: int, rope_length: int) -> bytes:
        names = sequence.names
        while len(names) <= index:
            if names:
                before = names[-1]
            else:
                lengths = [effective_length(rope, rope_length) for rope in self._varying]
                before = self._model + repr((sequence.request.params.adapter, lengths)).encode()
            start = len(names) * PAGE_SIZE
            tokens = np.array(sequence.tokens[start : start + PAGE_SIZE], "<i4").tobytes()
            names.append(hashlib.sha256(before + tokens).digest())
        return names[index]


def _up_to(count: int, found: Pages, pool: PagePool) -> Pages:
    """The first `count` pages of each group, without those that what follows does not see."""
    unseen = [first_page(count * PAGE_SIZE, group.window) for group in pool.groups]
    return [[GONE] * gone + pages[gone:count] for gone, pages in zip(unseen, found, strict=True)]


def _shares(sequence: Sequence) -> bool:
    """Not what is recomputed for each token, nor what has slid past the context: its first token is not the text's."""
    return sequence.request.cache and sequence.start == 0


def _findable(sequence: Sequence) -> int:
    """How many of its pages may be another's: not its last token's, nor those whose logits are still to be handed out."""
    if not _shares(sequence):
        return 0
    known = len(sequence.tokens) - 1
    return (min(known, sequence.scored) if sequence.scores_prompt else known) // PAGE_SIZE
