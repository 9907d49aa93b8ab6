"""What a step computes, as it is planned, and as the op sets take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from linnet.engine.request import Sequence
from linnet.ops.base import Batch

Tables: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""The page table, rope lengths and prompt lengths of the running sequences: the last but one fields of a `Batch`."""


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a sequence, from `sequence.computed` on, and logits of the last `wanted` of them; after these tokens
    `guesses`, which are no part of the sequence yet, and the logits of each."""

    sequence: Sequence
    count: int
    wanted: int
    guesses: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows of logits it gets."""
        return self.wanted + len(self.guesses)


@dataclass(frozen=True)
class Rows:
    """Rows of one sequence in a batch: tokens from `position` on, the token before them (-1 at position 0), and how many of the last
    want logits."""

    sequence: Sequence
    position: int
    tokens: list[int]
    before: int
    wanted: int

    @classmethod
    def of(cls, sequence: Sequence, position: int, count: int, guesses: tuple[int, ...] = (), wanted: int = 0) -> Rows:
        """`count` tokens that the sequence has, then `guesses`."""
        first = sequence.start + position
        tokens = [*sequence.tokens[first : first + count], *guesses]
        return cls(sequence, position, tokens, sequence.tokens[first - 1] if position else -1, wanted)


def batch_of(plan: list[Chunk], tables: Tables) -> Batch:
    """A planned step."""
    return make_batch([Rows.of(c.sequence, c.sequence.computed, c.count, c.guesses, c.rows) for c in plan], tables)


def make_batch(parts: list[Rows], tables: Tables) -> Batch:
    """A step of the rows of some running sequences."""
    tokens: list[int] = []
    positions: list[int] = []
    previous: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    for part in parts:
        count = len(part.tokens)
        tokens += part.tokens
        positions += range(part.position, part.position + count)
        previous += [part.before, *part.tokens[:-1]]
        slots += [part.sequence.slot] * count
        rows += range(len(tokens) - part.wanted, len(tokens))
    return Batch(_int32(tokens), _int32(positions), _int32(previous), _int32(slots), *tables, _int32(rows))


def _int32(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)
