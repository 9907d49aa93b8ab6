"""`StreamDecoder`: tokens in, text out as soon as it is certain. The only place that assembles UTF-8 and finds stops."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Protocol


class Decodes(Protocol):
    """What a stream needs of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, id: int, first: bool, /) -> bytes: ...


class StreamDecoder:
    """Turns the tokens of one answer into text. The pieces add up to the same text however the tokens are grouped into calls.

    stop: texts that end the answer. The first to be complete ends it (of several that end together, the longest), wherever
    token borders fall. Neither the stop nor anything after it is given out, and text that may be the start of a stop is held back.
    min_tokens: a stop that is complete within that many tokens does not count; one that only begins there does.
    skip_special: as in `Tokenizer.decode`. shown: special tokens that become text nevertheless, for a parser that needs them.
    continues: whether the answer continues a text, so that its first word keeps its space.
    Without a stop, the pieces add up to `tokenizer.decode(ids)`, or if the answer continues a text, to what these ids add to it. Time is
    linear in the length of the answer, times the number of stops.
    """

    def __init__(
        self,
        tokenizer: Decodes,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        min_tokens: int = 0,
        shown: frozenset[int] = frozenset(),
        continues: bool = False,
    ) -> None:
        self.stopped: str | None = None  # the stop that ended the answer
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - shown if skip_special else frozenset()
        self._first = not continues
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopFinder(stop) if stop else None
        self._exempt_tokens = min_tokens  # tokens still to come in which no stop may end
        self._held = ""  # decoded but not given out, since it may be the start of a stop
        self._finished = False

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens have made certain; "" after a stop."""
        return "".join([self._text(self._bytes(id), final=False) for id in token_ids])

    def finish(self) -> str:
        """The rest: the text that was held back, and U+FFFD for a character that was never completed."""
        if self.stopped is not None or self._finished:
            return ""
        self._finished = True
        text = self._text(b"", final=True)
        held, self._held = self._held, ""
        return text if self.stopped is not None else text + held

    def fork(self) -> StreamDecoder:
        """A copy that continues from here with other tokens."""
        new = copy(self)
        new._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        new._utf8.setstate(self._utf8.getstate())
        new._stops = None if self._stops is None else self._stops.fork()
        return new

    def _bytes(self, id: int) -> bytes:
        if id in self._skipped or not (data := self._tokenizer.token_bytes(id, False)):
            return b""
        if self._first:
            self._first = False
            return self._tokenizer.token_bytes(id, True)
        return data

    def _text(self, data: bytes, final: bool) -> str:
        if self.stopped is not None:
            return ""
        new = self._utf8.decode(data, final)
        counts = self._exempt_tokens <= 0 or final
        self._exempt_tokens -= not counts
        if self._stops is None or not new:
            return new
        text = self._held + new
        match = self._stops.feed(new, counts)
        if match is not None:
            end, self.stopped = match
            self._held = ""
            return text[: len(text) - len(new) + end - len(self.stopped)]
        certain = len(text) - self._stops.pending
        self._held = text[certain:]
        return text[:certain]


class StopFinder:
    """Looks for all stops at once in a text that comes in pieces: one automaton per stop (Knuth, Morris and Pratt, 1977)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(set(stops), key=len, reverse=True)  # the longest first: it wins where several end together
        self._borders = [_borders(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # characters of each stop that the text so far ends with
        self._initial = re.compile("[" + "".join(re.escape(c) for c in sorted({stop[0] for stop in stops})) + "]")

    def fork(self) -> StopFinder:
        new = copy(self)
        new._matched = list(self._matched)
        return new

    @property
    def pending(self) -> int:
        """Characters at the end of the text that may be the start of a stop."""
        return max(self._matched)

    def feed(self, text: str, counts: bool = True) -> tuple[int, str] | None:
        """The first stop that this text completes, as (characters of `text` up to the stop's end, the stop), or None. counts: if false, a
        stop that ends within this text is ignored."""
        position = 0
        while position < len(text):
            if not any(self._matched):
                start = self._initial.search(text, position)
                if start is None:
                    return None
                position = start.start()
            character = text[position]
            position += 1
            for i, stop in enumerate(self._stops):
                matched, borders = self._matched[i], self._borders[i]
                while matched and stop[matched] != character:
                    matched = borders[matched - 1]
                matched += stop[matched] == character
                if matched == len(stop):
                    if counts:
                        return position, stop
                    matched = borders[-1]
                self._matched[i] = matched
        return None


def _borders(stop: str) -> list[int]:
    """For each prefix: the length of its longest proper prefix that is its suffix too."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        length += stop[i] == stop[length]
        borders[i] = length
    return borders
