"""From logits to a token: bias, penalties, the caller's own functions, the draw, and log-probabilities.

The op set's `sample` does the filters and the draw itself. The random numbers are made here, from (seed, sample, position) alone, so that
a token does not depend on what else runs in the batch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from linnet.engine.constraint import Constraint
from linnet.engine.ngrams import Ngrams
from linnet.engine.params import SamplingParams
from linnet.errors import InvalidRequestError, LinnetError
from linnet.ops.base import Draw, Ops
from linnet.ops.sampling import members, set_of

_MASK = 2**64 - 1

_NO_WEIGHT = -1000.0
"""A difference of logits whose exponential is 0 in float64."""

_BLOCK = 128
"""To find the few largest of many values, the maximum of each block of this many is looked at first."""

_NO_TOKENS, _NO_COUNTS = np.zeros(0, np.int64), np.zeros(0, np.float32)


def philox(counter: int, key: tuple[int, int]) -> int:
    """First word of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    c0, c1, c2, c3 = counter & _MASK, (counter >> 64) & _MASK, 0, 0
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (right >> 64) ^ c1 ^ k0, right & _MASK, (left >> 64) ^ c3 ^ k1, left & _MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & _MASK, (k1 + 0xBB67AE8584CAA73B) & _MASK
    return c0


def uniform(seed: int, sample: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, for the token at `position` of sample number `sample`."""
    return (philox(position, (seed, sample)) >> 11) * 2.0**-53


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a token under the model itself (log-softmax in float64 of its logits, before temperature,
    bias and penalties), with the likeliest candidates as (token id, log-probability), best first.

    entropy: of all candidates for its place, in bits: 0 where the model is sure of one, log2(vocab) where it knows nothing."""

    token_id: int
    logprob: float
    entropy: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """The log-probability of `token` under logits [vocab], and of the `top` likeliest tokens."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    candidates = largest(logits, top)
    chosen, *others = shifted[[token, *candidates]]
    np.maximum(shifted, _NO_WEIGHT, out=shifted)  # where a logit is -inf, so is it; its product with its weight must be 0
    weights = np.exp(shifted)
    total = weights.sum()
    log_sum = math.log(total)
    mean = np.multiply(weights, shifted, out=weights).sum() / total
    top_logprobs = tuple((int(i), float(value - log_sum)) for i, value in zip(candidates, others, strict=True))
    return TokenLogprob(token, float(chosen - log_sum), max(0.0, float(log_sum - mean) / math.log(2)), top_logprobs)


def largest(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, best first; of equal ones the smaller index comes first."""
    count = min(count, len(values))
    if count <= 1:
        return np.array([values.argmax()] if count else [], np.int64)
    blocks = values[: len(values) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).max(axis=1)
    if count < len(blocks) // 2:  # the rest need not be looked at: a tenth of the time for a large vocabulary
        near = np.flatnonzero(values >= np.partition(blocks, -count)[-count])
        return near[_largest(values[near], count)]
    return _largest(values, count)


def _largest(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    least = np.partition(values, -count)[-count]
    above = np.flatnonzero(values > least)
    level = np.flatnonzero(values == least)[: count - len(above)]
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], level])


class Sampler:
    """Chooses the tokens of one sequence, and remembers what penalties and the constraint need to know about its past.

    ends: token ids that end the answer. constraint: what the answer must satisfy; it belongs to this sampler, which advances it with
    every token that it chooses.
    """

    def __init__(
        self,
        ops: Ops,
        params: SamplingParams,
        seed: int,
        sample: int,
        prompt: Iterable[int],
        ends: Iterable[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.ops = ops
        self.params = params
        self.seed = seed
        self.sample = sample
        self.constraint = constraint
        self._ends = np.fromiter(ends, np.int64)
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64)
        with np.errstate(over="ignore"):  # past float32, a bias is infinite
            self._bias = np.array(list(params.logit_bias.values()), np.float64).astype(np.float32)
        penalised = params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        prompt = list(prompt)
        self._seen = _Seen(prompt) if penalised else None
        size = params.no_repeat_ngram_size
        self._ngrams = Ngrams(size, prompt) if size else None
        self._adjusts = bool(params.logit_bias) or penalised or bool(size) or params.logits_processor is not None

    def next_token(self, logits: NDArray[np.float32], tokens: list[int], generated: int) -> int:
        """The token after `tokens`, the last `generated` of which this sampler chose. `logits` [vocab] is not changed.

        Raises InvalidRequestError if one of the caller's functions gives something unusable.
        """
        p = self.params
        adjusted = self._adjust(logits.copy(), tokens) if self._adjusts else logits
        allowed = None if self.constraint is None else self._allowed(self.constraint, generated, len(logits))
        if allowed is None and generated < p.min_tokens and len(self._ends):
            adjusted = adjusted.copy()
            adjusted[self._ends] = -np.inf
        token = self._choose(adjusted, allowed) if p.choose is not None else self._draw(adjusted, allowed, logits, len(tokens))
        return self.take(token)

    def draw(self, position: int, generated: int, guessed: int = 0) -> Draw | None:
        """What `next_token` would do at `position`, described for an op set that draws on its device. guessed: how many guessed tokens
        stand between the sequence's end and `position`. None if the logits are needed on the host: for log-probabilities, constraints,
        the caller's functions, beams, or penalties that depend on the guessed tokens."""
        p = self.params
        if p.num_beams > 1:
            return None
        if self.constraint is not None or p.choose is not None or p.logits_processor is not None or p.logprobs is not None:
            return None
        if guessed and (self._seen is not None or self._ngrams is not None):
            return None
        seen, counts = (_NO_TOKENS, _NO_COUNTS) if self._seen is None else self._seen.arrays()
        forbidden = _NO_TOKENS if self._ngrams is None else np.array(self._ngrams.forbidden(), np.int64)
        if generated < p.min_tokens:
            forbidden = np.union1d(forbidden, self._ends)
        penalties = (p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
        adjusted = (self._bias_ids, self._bias, seen, counts, *penalties, forbidden)
        return Draw(*adjusted, p.temperature, p.top_k, p.top_p, p.min_p, self._uniform(position))

    def guess(self, logits: NDArray[np.float32], position: int, generated: int) -> int | None:
        """A guess at what `next_token` will choose at `position`, from a draft model's logits [vocab]: the same choice, but without
        the caller's functions. None if these logits leave nothing to choose."""
        p = self.params
        adjusted = self._penalise(logits.copy())
        if generated < p.min_tokens:
            adjusted[self._ends] = -np.inf
        if not math.isfinite(adjusted.max()):
            return None
        return self.ops.sample(adjusted, p.temperature, min(p.top_k, len(logits)), p.top_p, p.min_p, self._uniform(position))

    def scores(self, logits: NDArray[np.float32], tokens: list[int], generated: int) -> NDArray[np.float32]:
        """The log-probabilities [vocab] that beams are compared by: those of `logits` (which is not changed), with bias, penalties and the
        caller's processor applied to the log-probabilities, as transformers does; -inf for tokens that may not follow `tokens`."""
        p, most = self.params, float(logits.max())
        if not math.isfinite(most):
            refuse_logits(most, p)
        log_sum = most + math.log(np.exp(logits - np.float32(most)).sum(dtype=np.float64))
        scores = self._adjust(logits - np.float32(log_sum), tokens)
        if p.logits_processor is not None:
            scores = scores.copy()  # the processor may have kept what it gave
        if self.constraint is not None:
            scores[~members(self._allowed(self.constraint, generated, len(logits)), len(logits))] = -np.inf
        elif generated < p.min_tokens:
            scores[self._ends] = -np.inf
        if math.isnan(scores.max()) or scores.max() == math.inf:
            refuse_logits(float(logits.max()), p)
        return scores

    def fork(self) -> Sampler:
        """A copy for a sequence that has the same past and will continue differently."""
        new = copy(self)
        new.constraint = None if self.constraint is None else self.constraint.fork()
        new._seen = None if self._seen is None else self._seen.fork()
        new._ngrams = None if self._ngrams is None else self._ngrams.fork()
        return new

    def take(self, token: int) -> int:
        """Takes note of the next token, however it was chosen."""
        for past in (self._seen, self._ngrams):
            if past is not None:
                past.add(token)
        if self.constraint is not None and token not in self._ends:
            self.constraint.advance(token)
        return token

    def finishes(self, token: int) -> bool:
        """Whether nothing could follow `token`, because the constraint would be complete with it."""
        if self.constraint is None or token in self._ends:
            return False
        after = self.constraint.fork()
        after.advance(token)
        return after.finished

    @property
    def finished(self) -> bool:
        """Whether nothing can follow, because the constraint is complete."""
        return self.constraint is not None and self.constraint.finished

    def _allowed(self, constraint: Constraint, generated: int, vocab: int) -> NDArray[np.uint32]:
        """The tokens that the constraint allows next. Tokens that end the answer are among them once the constraint is satisfied and
        `min_tokens` is reached, or nothing else can follow."""
        allowed = constraint.allowed()
        ends = set_of(self._ends.tolist(), vocab)
        allowed &= ~ends
        if constraint.satisfied and (generated >= self.params.min_tokens or not allowed.any()):
            allowed |= ends
        return allowed

    def _draw(self, adjusted: NDArray[np.float32], allowed: NDArray[np.uint32] | None, logits: NDArray[np.float32], position: int) -> int:
        """A token by the op set's draw. logits: the model's own, which tell the cause of an error if no token is left."""
        p = self.params
        if not math.isfinite(adjusted.max()):
            refuse_logits(float(logits.max()), p)
        filters = (p.temperature, min(p.top_k, len(logits)), p.top_p, p.min_p, self._uniform(position))
        token = self.ops.sample(adjusted, *filters) if allowed is None else self.ops.sample(adjusted, *filters, allowed)
        if token < 0:
            raise InvalidRequestError("logit_bias, a penalty or logits_processor left none of the tokens that the constraint allows")
        return token

    def _choose(self, adjusted: NDArray[np.float32], allowed: NDArray[np.uint32] | None) -> int:
        """A token by the caller's own `choose`, which sees the tokens that are not allowed at -inf."""
        assert self.params.choose is not None
        logits = adjusted.copy()
        if allowed is None:
            return _chosen(self.params.choose(logits), len(logits))
        inside = members(allowed, len(logits))
        logits[~inside] = -np.inf
        token = _chosen(self.params.choose(logits), len(logits))
        if not inside[token]:
            raise InvalidRequestError(f"choose gave token id {token}, which the constraint does not allow here: its logit is -inf")
        return token

    def _uniform(self, position: int) -> float:
        """The random number of the token at `position`; greedy decoding needs none."""
        return uniform(self.seed, self.sample, position) if self.params.temperature > 0.0 else 0.0

    def _adjust(self, logits: NDArray[np.float32], tokens: list[int]) -> NDArray[np.float32]:
        """Bias, penalties and the caller's processor; changes `logits` in place."""
        processor, logits = self.params.logits_processor, self._penalise(logits)
        return logits if processor is None else processed(processor(list(tokens), logits), logits.shape)

    def _penalise(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bias and penalties; changes `logits` in place."""
        p = self.params
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if self._seen is not None:
            ids, counts = self._seen.arrays()
            values = logits[ids]
            values = np.where(values > 0, values / np.float32(p.repetition_penalty), values * np.float32(p.repetition_penalty))
            values -= np.float32(p.presence_penalty) * (counts > 0)
            values -= np.float32(p.frequency_penalty) * counts
            logits[ids] = values
        if self._ngrams is not None:
            logits[self._ngrams.forbidden()] = -np.inf
        return logits


class _Seen:
    """The distinct tokens of prompt and answer, and how often each was generated, as arrays that grow by doubling."""

    def __init__(self, prompt: Iterable[int]) -> None:
        distinct = sorted(set(prompt))
        self._slots = {token: slot for slot, token in enumerate(distinct)}
        self._ids = np.zeros(2 * len(distinct) + 64, np.int64)
        self._ids[: len(distinct)] = distinct
        self._counts = np.zeros(len(self._ids), np.float32)

    def fork(self) -> _Seen:
        new = copy(self)
        new._slots, new._ids, new._counts = dict(self._slots), self._ids.copy(), self._counts.copy()
        return new

    def add(self, token: int) -> None:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += 1

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._ids[: len(self._slots)], self._counts[: len(self._slots)]


def processed(logits: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The result of the caller's `logits_processor`, checked."""
    try:
        result = np.ascontiguousarray(logits, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor that tracks gradients
        raise InvalidRequestError(f"logits_processor gave a {type(logits).__name__} that is no array of floats ({error})") from error
    if logits is None or result.shape != shape:
        gave = "None" if logits is None else f"shape {result.shape}"
        raise InvalidRequestError(f"logits_processor gave {gave}; it must return logits of shape {shape}")
    return result


def _chosen(token: object, vocab: int) -> int:
    """The result of the caller's `choose`, checked."""
    try:
        value = operator.index(token)  # type: ignore[arg-type]
    except TypeError:
        value = -1
    if not 0 <= value < vocab:
        raise InvalidRequestError(f"choose gave {token!r}; it must give a token id from 0 to {vocab - 1}")
    return value


def refuse_logits(most: float, params: SamplingParams) -> NoReturn:
    """Raises an error that names the cause of a largest logit that is not finite. most: the largest logit that the model gave."""
    if not math.isfinite(most):
        raise LinnetError("the model gave logits that are not finite; its weights hold infinities or NaN, or overflow their type")
    source = "logits_processor" if params.logits_processor is not None else "min_tokens, logit_bias, no_repeat_ngram_size or a penalty"
    raise InvalidRequestError(f"{source} left no token to choose from: the largest logit is not finite")
