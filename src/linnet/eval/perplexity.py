"""Perplexity: how likely texts are, by windows that slide over them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.eval.batch import Item, Score
from linnet.eval.rows import Text
from linnet.eval.task import Sample, Task, complete, digest
from linnet.eval.text_metrics import Measured
from linnet.llm import LLM


@dataclass(frozen=True)
class Perplexity:
    """How likely a model finds texts: exp of the mean loss per token, the same per byte of UTF-8, and the bits per byte.

    loss: the negative log-likelihood of all scored tokens, in nats. tokens, bytes: how many were scored. The first token of a text is not,
    unless a beginning token precedes it, since nothing predicts it.
    """

    perplexity: float
    byte_perplexity: float
    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int

    @classmethod
    def of(cls, loss: float, tokens: int, bytes: int) -> Perplexity:
        """The figures from the totals; infinite if a token is impossible."""
        per_byte = loss / bytes if bytes else math.nan
        return cls(_exp(loss / tokens), _exp(per_byte), per_byte / math.log(2), loss, tokens, bytes)

    def figures(self) -> dict[str, float | str]:
        return {"perplexity": self.perplexity, "byte_perplexity": self.byte_perplexity, "bits_per_byte": self.bits_per_byte}


def compute_perplexity(
    model: LLM,
    texts: str | Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """The perplexity of a text, or of several together.

    window: the most tokens that the model sees at once; None: its context. stride: how far the window moves each time; None: half the
    window. Every token is scored once, in the first window that contains it, given the tokens before it there: a smaller stride means
    more context, and more work. This is the method of transformers' guide "Perplexity of fixed-length models". bos: begin each text with
    the beginning token; None: if the model's texts do. progress: called with how many windows are done, and how many there are.

    Raises InvalidRequestError if there is nothing to score, the window is longer than the context, or the stride is not shorter than the
    window.
    """
    rows = [Text(text) for text in ([texts] if isinstance(texts, str) else texts)]
    task = Texts(model, rows, window, stride, bos)
    return task.total(complete(model, task, progress=progress))


class Texts(Task):
    """Rows {text}: perplexity, over windows, each of which is an item. window, stride, bos: see `compute_perplexity`."""

    kind = "text"

    def __init__(
        self, llm: LLM, rows: Sequence[Text], window: int | None = None, stride: int | None = None, bos: bool | None = None
    ) -> None:
        self.window = llm.context if window is None else window
        self.stride = max(1, self.window // 2) if stride is None else stride
        if not 2 <= self.window <= llm.context:
            raise InvalidRequestError(f"window is {self.window}; it must be from 2 to the context, {llm.context}")
        if not 1 <= self.stride < self.window:
            raise InvalidRequestError(f"stride is {self.stride} and window {self.window}; the stride must be from 1 to the window less one")
        if llm.tokenizer is None:
            raise InvalidRequestError("texts need a tokenizer, and this model has none; open it with tokenizer=")
        if not rows:
            raise InvalidRequestError("there are no texts; give at least one")
        self.rows, self.tokenizer = rows, llm.tokenizer
        self.ids = [self.tokenizer.encode(row.text, bos=bos) for row in rows]
        short = next((index for index, ids in enumerate(self.ids) if len(ids) < 2), None)
        if short is not None:
            raise InvalidRequestError(f"text {short} is one token, which nothing predicts; leave it out (compute_perplexity has bos=True)")
        self.first = [0]  # of each text's windows
        for ids in self.ids:
            self.first.append(self.first[-1] + 1 + max(0, math.ceil((len(ids) - self.window) / self.stride)))
        self.settings: dict[str, Any] = {"window": self.window, "stride": self.stride, "bos": bos}
        self.digest = digest([row.text for row in rows])

    def __len__(self) -> int:
        return self.first[-1]

    def item(self, index: int) -> Item[Sample]:
        text = bisect_right(self.first, index) - 1
        ids, at = self.ids[text], index - self.first[text]
        begin = at * self.stride
        end = min(begin + self.window, len(ids))
        start = 1 if at == 0 else begin - self.stride + self.window
        score = Score(ids[begin:end], start - begin)
        return Item([score], lambda: {**self.rows[text].named, "text": text, "start": start, "end": end, "logprob": score.logprob})

    def total(self, samples: Sequence[Sample]) -> Perplexity:
        """The perplexity of all texts together."""
        parts = [self._of(text, samples) for text in range(len(self.rows))]
        return Perplexity.of(math.fsum(part.loss for part in parts), sum(part.tokens for part in parts), sum(part.bytes for part in parts))

    def measure(self, samples: Sequence[Sample]) -> Measured:
        each = [-self._of(text, samples).bits_per_byte for text in range(len(self.rows))]
        return Measured(self.total(samples).figures(), {"bits_per_byte": each})

    def shown(self, row: int, samples: Sequence[Sample]) -> dict[str, str]:
        return {"text": self.rows[row].text}

    def _of(self, text: int, samples: Sequence[Sample]) -> Perplexity:
        loss = -math.fsum(sample["logprob"] for sample in samples[self.first[text] : self.first[text + 1]])
        return Perplexity.of(loss, len(self.ids[text]) - 1, self._bytes(text))

    def _bytes(self, text: int) -> int:
        """Bytes of the scored tokens: the whole text, or all but its first token."""
        first = self.ids[text][0]
        unscored = 0 if first in self.tokenizer.special_ids else len(self.tokenizer.token_bytes(first, first=True))
        return len(self.rows[text].text.encode()) - unscored


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
