"""Compares two models on one text: how well each predicts it, and how far their predictions differ."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnet.errors import InvalidRequestError
from linnet.llm import LLM

WINDOW = 512
"""Tokens in a window; each window is read without those before it."""
_MOST_BYTES = 64
"""No text has more bytes per token, on average."""
_ROWS = 64
"""Rows of logits that are compared at a time."""


@dataclass(frozen=True)
class Comparison:
    """The figures over the predictions of `tokens` tokens.

    perplexity: exp of the mean negative log-probability (in nats) of the text's tokens. kl_divergence: mean of KL(source || new) in
    nats; kl_divergence_p99: its 99th percentile. top1_agreement: share of predictions whose likeliest token is the same.
    """

    tokens: int
    source_perplexity: float
    perplexity: float
    kl_divergence: float
    kl_divergence_p99: float
    top1_agreement: float


def read_text(option: str, path: Path, tokens: int) -> str:
    """The beginning of a file's text, enough for so many tokens. Raises InvalidRequestError where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(tokens * _MOST_BYTES)
        text = getincrementaldecoder("utf-8")().decode(data)  # a character that is cut at the end is left out
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidRequestError(f"{option} {path}: cannot be read ({reason})") from None
    if not text.strip():
        raise InvalidRequestError(f"{option} {path}: there is no text in it")
    return text


def windows(token_ids: Sequence[int], length: int, beginning: Sequence[int], most: int) -> list[list[int]]:
    """The first `most` tokens, cut into windows of at most `length` each, each after the tokens that texts begin with."""
    step = length - len(beginning)
    ids = list(token_ids[:most])
    return [[*beginning, *ids[begin : begin + step]] for begin in range(0, len(ids), step) if len(ids) - begin > 1]


def compare(source: LLM, new: LLM, texts: Sequence[Sequence[int]], advance: Callable[[int], object] = lambda _: None) -> Comparison:
    """texts: token ids, each within both contexts. advance: called with numbers of tokens that are done."""
    divergences: list[NDArray[np.float64]] = []
    losses, same = np.zeros(2), 0
    for ids in texts:
        expected, actual = source.logits(ids)[:-1], new.logits(ids)[:-1]
        for begin in range(0, len(expected), _ROWS):
            rows = slice(begin, begin + _ROWS)
            came = np.array(ids[1:][rows])
            p, q = _log_softmax(expected[rows]), _log_softmax(actual[rows])
            divergences.append((np.exp(p) * (p - q)).sum(axis=1))
            losses -= [p[np.arange(len(came)), came].sum(), q[np.arange(len(came)), came].sum()]
            same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        advance(len(ids))
    every = np.concatenate(divergences)
    source_loss, loss = (losses / len(every)).tolist()
    return Comparison(
        tokens=len(every),
        source_perplexity=_perplexity(source_loss),
        perplexity=_perplexity(loss),
        kl_divergence=float(every.mean()),
        kl_divergence_p99=float(np.quantile(every, 0.99)),
        top1_agreement=same / len(every),
    )


def _perplexity(loss: float) -> float:
    return exp(min(loss, 700.0))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x
