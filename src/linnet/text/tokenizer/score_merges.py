"""SentencePiece's BPE: of all neighbours whose concatenation is a piece, merge the best-scored first, leftmost among equals.

After Kudo and Richardson 2018 (arXiv:1808.06226); unknown characters fall back to bytes. Knows no file format.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush

_WORDS = re.compile("▁+[^▁]*|[^▁]+")
_SPACE_INSIDE = re.compile("[^▁]▁")
_LONGEST_CACHED = 64


class ScoreMerges:
    """Encodes texts whose spaces are already written as `▁`. O(n log n) in the length of the text, whatever it holds.

    pieces: text -> id of what may be merged into; scores: by id; unused: ids that are merged through but not given out;
    byte_ids: the 256 ids that stand for bytes, or None; unknown_id stands for a character when there are none.
    """

    def __init__(
        self,
        pieces: Mapping[str, int],
        scores: Sequence[float],
        unused: Collection[int],
        byte_ids: Sequence[int] | None,
        unknown_id: int | None,
    ) -> None:
        self._pieces = pieces
        self._scores = scores
        self._unused = unused
        self._byte_ids = byte_ids
        self._unknown_id = unknown_id
        # Where no piece reaches over the start of a word, words merge by themselves, and the same word always alike.
        self._by_word = not any(_SPACE_INSIDE.search(piece) for piece in pieces)
        self._cached = lru_cache(maxsize=2**16)(self._merge)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in _WORDS.findall(text) if self._by_word else (text,):
            ids.extend(self._cached(word) if len(word) <= _LONGEST_CACHED else self._merge(word))
        if self._byte_ids is None:  # unknown characters in a row are one unknown token
            return [id for i, id in enumerate(ids) if i == 0 or id != self._unknown_id or ids[i - 1] != id]
        return ids

    def _merge(self, text: str) -> tuple[int, ...]:
        symbols = list(text)  # "" where merged into its left neighbour
        following = [*range(1, len(symbols)), -1]
        preceding = list(range(-1, len(symbols) - 1))
        halves: dict[str, tuple[str, str]] = {}  # of unused pieces, to be taken apart again

        def candidate(left: int, right: int) -> tuple[float, int, int, int] | None:
            """(-score, left, right, length): what the heap orders by, and how to see that it is out of date."""
            merged = symbols[left] + symbols[right]
            id = self._pieces.get(merged)
            if id is None:
                return None
            if id in self._unused:
                halves[merged] = (symbols[left], symbols[right])
            return -self._scores[id], left, right, len(merged)

        queue = [entry for i in range(len(symbols) - 1) if (entry := candidate(i, i + 1))]
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            following[left] = following[right]
            if following[left] >= 0:
                preceding[following[left]] = left
            for a, b in ((preceding[left], left), (left, following[left])):
                if a >= 0 and b >= 0 and (entry := candidate(a, b)):
                    heappush(queue, entry)
        return tuple(id for symbol in symbols if symbol for id in self._ids(symbol, halves))

    def _ids(self, symbol: str, halves: Mapping[str, tuple[str, str]]) -> Iterator[int]:
        """The ids of a finished symbol: its own, or those of the pieces that an unused one was merged from, or bytes."""
        rest = [symbol]
        while rest:
            symbol = rest.pop()
            id = self._pieces.get(symbol)
            if id in self._unused and symbol in halves:
                rest.extend(reversed(halves[symbol]))
            elif id is not None:
                yield id
            elif self._byte_ids is not None:
                yield from (self._byte_ids[byte] for byte in symbol.encode())
            elif self._unknown_id is not None:
                yield self._unknown_id
