"""How the engine sees a grammar: as the set of tokens that may come next. Knows neither text nor grammars."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one answer with respect to the constraint that it must satisfy. Its methods are called by one thread at a time. If one
    cannot tell which tokens are allowed, it raises, and the request fails: no token is ever drawn without the constraint."""

    def fork(self) -> Constraint:
        """A copy of the state, for another answer that is at the same place. May be called from any thread."""

    def allowed(self) -> NDArray[np.uint32]:
        """The set of tokens that may come next (its form is that of `set_of` in ops/sampling.py), without those that end an answer. The
        caller may change it."""

    def advance(self, token: int) -> None:
        """Takes the answer's next token, which was allowed and does not end the answer."""

    @property
    def satisfied(self) -> bool:
        """Whether the answer may end here."""

    @property
    def finished(self) -> bool:
        """Whether nothing can follow: the answer is satisfied and ends here."""


class AfterToken:
    """A constraint that begins after every occurrence of a token and lasts until it is finished; elsewhere the answer is free."""

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
