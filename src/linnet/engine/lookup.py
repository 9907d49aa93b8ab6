"""Prompt lookup: what came after the same tokens before is a guess at what comes next (Saxena, "Prompt Lookup Decoding", 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

LONGEST = 8
"""The longest match that is looked for: a longer one predicts no better."""

PLACES = 8
"""How many places one search compares, at most."""

WEIGHT = 0.15
"""Weight of the last guess in the moving average of the guesses made by matches of its length."""


class PairIndex:
    """The places of each pair of neighbouring tokens in a text that grows, latest first.

    It works as the hash chains of LZ77 coders do: it stores where each pair ended last, and for each such place the one before it. start:
    the first place that is indexed. Takes about a hundred bytes per token, and a time per token that does not grow with the text.
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

    It follows the longest earlier match of the last tokens for as long as the sequence continues as the text did there, and then looks
    for another. If there is none after a long match, it assumes that a single token was replaced, and continues behind it with a match of
    length 1. Every prediction is compared with the token that comes, whether it was used or not: so it is known, at no cost, how good
    matches of each length are in this text. prompt: the index of the prompt's pairs, which samples share. length: of the present match,
    0 if there is none.
    """

    def __init__(self, prompt: PairIndex, prompt_length: int) -> None:
        self._prompt = prompt
        self._own = PairIndex(prompt_length)
        self._prompt_length = self._seen = prompt_length
        self._next = 0  # the place of the token that follows the match
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
        """The probability that the first guessed token is right, then of each further one given that those before it were; endless."""
        for length in range(self.length, LONGEST):
            yield self._rates[length]
        while True:
            yield self._rates[LONGEST]

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens, if the sequence continues as the text after the match did. If that text reaches the sequence's end,
        it is repeated as a cycle."""
        guessed = list(tokens[self._next : self._next + count])
        period = len(tokens) - self._next
        while len(guessed) < count:
            guessed.append(guessed[-period])
        return guessed

    def _search(self, tokens: Sequence[int], last: int) -> None:
        """Finds the longest earlier match of the tokens up to place `last`; of several, the latest."""
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
