"""For `no_repeat_ngram_size`: forbids every token that would complete a run of tokens for a second time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from copy import copy


class Ngrams:
    """The runs of `size` tokens in a growing text, its prompt included. Every token is looked at once."""

    def __init__(self, size: int, tokens: Iterable[int]) -> None:
        self.size = size
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        self._last: tuple[int, ...] = ()  # up to size - 1 tokens
        for token in tokens:
            self.add(token)

    def fork(self) -> Ngrams:
        """A copy for a text that begins the same and continues differently."""
        new = copy(self)
        new._followers = defaultdict(set, {run: set(tokens) for run, tokens in self._followers.items()})
        return new

    def add(self, token: int) -> None:
        if len(self._last) == self.size - 1:
            self._followers[self._last].add(token)
        self._last = (*self._last, token)[1 - self.size :] if self.size > 1 else ()

    def forbidden(self) -> list[int]:
        """The tokens that must not come next."""
        return sorted(self._followers.get(self._last, ())) if len(self._last) == self.size - 1 else []
