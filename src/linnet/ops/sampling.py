"""The draw of a token, defined in NumPy: what `Ops.sample` means, for every op set."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def sample(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
    allowed: NDArray[np.uint32] | None = None,
) -> int:
    """A token id from logits float32 [vocab], of which -inf never wins, with `uniform` in [0, 1); all in float64.

    Candidates are ordered by logit, ties by id. Each filter leaves a shorter list, never an empty one, and the next
    one sees probabilities that sum to 1 over what is left. Sums run from the likeliest candidate on, one by one,
    and the draw is the first candidate whose running sum exceeds `uniform` times the whole.
    allowed: a set of tokens, as `set_of` makes it; no other is a candidate. -1 where none is left.
    """
    if allowed is not None:
        logits = np.where(members(allowed, len(logits)), logits, np.float32(-np.inf))
        if logits.max() == -np.inf:
            return -1
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")
    if top_k > 0:
        order = order[:top_k]
    kept = logits[order].astype(np.float64)
    weights = np.exp((kept - kept[0]) / temperature)  # softmax times a constant: the likeliest weighs 1
    if top_p < 1:
        reached = np.cumsum(weights)
        weights = weights[: 1 + int(np.searchsorted(reached, top_p * reached[-1]))]
    weights = weights[weights >= min_p]
    reached = np.cumsum(weights)
    drawn = np.searchsorted(reached, uniform * reached[-1], side="right")
    last = np.count_nonzero(weights) - 1  # where the product above rounds up, the last one that weighs anything
    return int(order[min(drawn, last)])


def set_of(tokens: Iterable[int], vocab: int) -> NDArray[np.uint32]:
    """A set of tokens, uint32 [ceil(vocab / 32)]: token i is in it where bit i % 32 of word i // 32 is set."""
    words = np.zeros(-(-vocab // 32), np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def members(tokens: NDArray[np.uint32], vocab: int) -> NDArray[np.bool_]:
    """Bool [vocab]: which tokens are in a set."""
    return np.unpackbits(tokens.astype("<u4", copy=False).view(np.uint8), count=vocab, bitorder="little").astype(bool)
