"""What the engine sees of a grammar: which tokens may come next. Knows no text and no grammar."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """Where one answer stands in what it must satisfy. Its methods are called by one thread at a time, and raise where they cannot
    tell what is allowed, which fails the request: no token is ever drawn without them."""

    def fork(self) -> Constraint:
        """A state of its own for another answer that stands at the same place. May be called from any thread."""

    def allowed(self) -> NDArray[np.uint32]:
        """The tokens that may come next, a set (`ops/sampling.py`, set_of) that is the caller's to change; none of those that end an
        answer is in it."""

    def advance(self, token: int) -> None:
        """Takes a token that the answer got: one that was allowed, and does not end it."""

    @property
    def satisfied(self) -> bool:
        """Whether the answer may end here."""

    @property
    def finished(self) -> bool:
        """Whether nothing can follow: the answer is satisfied and ends here."""


class AfterToken:
    """A constraint of what follows a token, each time that it comes, until nothing can follow; an answer is free otherwise."""

    def __init__(self, token: int, follows: Constraint, vocab: int, ends: Collection[int]) -> None:
        self._token, self._follows = token, follows
        self._current: Constraint | None = None
        bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
        bits[:vocab] = 1
        bits[list(ends)] = 0
        self._free = np.packbits(bits, bitorder="little").view(np.uint32)

    def fork(self) -> AfterToken:
        new = copy(self)
        new._current = None if self._current is None else self._current.fork()
        return new

    def allowed(self) -> NDArray[np.uint32]:
        return self._free.copy() if self._current is None else self._current.allowed()

    def advance(self, token: int) -> None:
        if self._current is not None:
            self._current.advance(token)
            if self._current.finished:
                self._current = None
        elif token == self._token:
            self._current = self._follows.fork()

    @property
    def satisfied(self) -> bool:
        return self._current is None

    @property
    def finished(self) -> bool:
        return False
