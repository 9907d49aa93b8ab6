"""Prompt lookup: what came after the same tokens before is a guess at what comes next (Saxena, "Prompt Lookup Decoding", 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

LONGEST = 8
"""Tokens of a match that count: a longer one says no more of what follows."""

PLACES = 8
"""Most places that one search compares."""

WEIGHT = 0.15
"""What the last guess counts for, among all that were made by matches of its length."""


class PairIndex:
    """The places of each pair of neighbouring tokens in a text that grows, latest first.

    As in LZ77 coders with hash chains: where a pair last ended, and for each place the one before it. start: the first place that is
    indexed. A hundred bytes a token, and a time that does not grow with the text.
    """

    def __init__(self, start: int) -> None:
        self._start = max(1, start)
        self._last: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = []

    def extend(self, tokens: Sequence[int], end: int) -> None:
        """Takes in the pairs that end before place `end`."""
        for place in range(self._start + len(self._earlier), end):
            pair = (tokens[place - 1], tokens[place])
            self._earlier.append(self._last.get(pair, -1))
            self._last[pair] = place

    def places(self, pair: tuple[int, int]) -> Iterator[int]:
        """Where the pair ends."""
        place = self._last.get(pair, -1)
        while place >= 0:
            yield place
            place = self._earlier[place - self._start]


class Lookup:
    """Guesses the continuation of one sequence from its own past.

    It follows the longest earlier match of the last tokens while that goes on as the sequence does, and looks for another where it does
    not; where there is none, one token may stand in place of another, and it goes on behind that, with a match of length 1. Each guess
    is judged by the token that comes, whether it was used or not, so that what a match of some length is worth in this text is known at
    no cost. prompt: the index of the prompt's pairs, which samples share. length: tokens that match, 0 without any.
    """

    def __init__(self, prompt: PairIndex, prompt_length: int) -> None:
        self._prompt = prompt
        self._own = PairIndex(prompt_length)
        self._prompt_length = self._seen = prompt_length
        self._next = 0  # where the token that follows the match stands
        self.length = 0
        self._rates = [0.0, 0.3, *((length - 1) / (length + 2) for length in range(2, LONGEST + 1))]  # first guesses at guesses

    def follow(self, tokens: Sequence[int]) -> None:
        """Takes in the tokens that were added."""
        for place in range(self._seen, len(tokens)):
            length = self.length
            if length:
                hit = tokens[self._next] == tokens[place]
                self._rates[length] += WEIGHT * (hit - self._rates[length])
                self._next += 1
                if hit:
                    self.length = min(length + 1, LONGEST)
                    continue
            self._search(tokens, place)
            if not self.length and length == LONGEST:
                self.length = 1
        self._seen = len(tokens)

    def rates(self) -> Iterator[float]:
        """How likely the first guessed token is to come, then each further one where those before it did; without end."""
        for length in range(self.length, LONGEST):
            yield self._rates[length]
        while True:
            yield self._rates[LONGEST]

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens, if the sequence goes on as the match does; a match that overlaps what it guesses goes round."""
        guessed = list(tokens[self._next : self._next + count])
        period = len(tokens) - self._next
        while len(guessed) < count:
            guessed.append(guessed[-period])
        return guessed

    def _search(self, tokens: Sequence[int], last: int) -> None:
        """Finds the longest match of the tokens up to place `last`; of several the latest."""
        self.length = 0
        if last < 1:
            return
        pair = (tokens[last - 1], tokens[last])
        self._prompt.extend(tokens, min(last, self._prompt_length))
        self._own.extend(tokens, last)
        for place in islice(chain(self._own.places(pair), self._prompt.places(pair)), PLACES):
            length = 2
            while length < LONGEST and length <= place and tokens[place - length] == tokens[last - length]:
                length += 1
            if length > self.length:
                self.length, self._next = length, place + 1
