"""Beam search: several answers to one prompt go on side by side, and the best of what they come to are given.

It keeps to what transformers' `generate(num_beams=...)` means by each option, so that both give the same tokens. Beams are sequences like
any others, rows of the same steps; here is only what they have to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from linnet.engine.params import SamplingParams
from linnet.engine.sampling import TokenLogprob, largest, token_logprob
from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    from linnet.engine.request import FinishReason, Request, Sequence
    from linnet.engine.scheduler import Scheduler


FEW = 1024
"""Tokens that mostly reach `top_p`, and are put in order before all are."""


class Text(Protocol):
    """The text of an answer as it grows, as far as it tells whether the answer ends."""

    @property
    def stopped(self) -> str | None: ...

    def fork(self) -> Text: ...

    def push(self, token_ids: Iterable[int], /) -> str: ...


@dataclass(eq=False)
class Beam:
    """An answer in the making. score: the sum of its log-probabilities. logprobs: of its tokens, where asked for. ids, scores: what may
    follow, once the model has said so: token ids and float32 log-probabilities; logits: float32 [vocab], where still needed."""

    sequence: Sequence
    text: Text | None
    score: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()
    ids: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Continuation:
    """A beam with one token more. score: of all. reason: why it ends with it, if it does."""

    parent: Beam
    token: int
    score: float
    text: Text | None
    reason: FinishReason | None

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        top, logits = self.parent.sequence.request.params.logprobs, self.parent.logits
        return () if top is None or logits is None else (*self.parent.logprobs, token_logprob(logits, self.token, top))


@dataclass(frozen=True)
class Hypothesis:
    """A finished answer. score: what it is compared by, the sum of its log-probabilities over length**length_penalty, its end counted."""

    tokens: list[int]
    score: float
    logprobs: tuple[TokenLogprob, ...]
    reason: FinishReason


class BeamSearch:
    """The beams of one request.

    At each length, once the model has spoken for every beam, the best continuations of all are looked at together, twice as many as there
    are beams or more: so many that `num_beams` remain when the others end. Those among the first `num_beams` that end are hypotheses, of
    which the best `num_beams` are kept; the best of those that do not end are the next beams. With a temperature, they are drawn instead,
    without putting any back, from the softmax of their scores (beam sampling); the order is then that of the draws.

    live: best first; at first only the prompt's. finished: best first. over: whether no hypothesis can come any more, as far as
    `early_stopping` wants to know.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.width = request.params.num_beams
        self.looked_at = max(2, 1 + len(request.ends)) * self.width
        self.live = [Beam(request.sequences[0], request.text)]
        self.finished: list[Hypothesis] = []
        self.over = False

    @property
    def is_due(self) -> bool:
        """Whether every beam knows what may follow."""
        return not self.over and all(beam.ids is not None for beam in self.live)

    def report(self, sequence: Sequence, logits: NDArray[np.float32]) -> None:
        """Takes the logits [vocab] after a beam's last token; again, where it gave way and was computed anew."""
        [beam] = [beam for beam in self.live if beam.sequence is sequence]
        scores = sequence.sampler.scores(logits, sequence.tokens, sequence.generated)
        beam.ids, beam.scores = candidates(scores, self.request.params, self.looked_at)
        if self.request.params.logprobs is not None:
            beam.logits = logits.copy()

    def advance(self, scheduler: Scheduler) -> None:
        """Each beam gets its next token; sequences that go on as two share their pages, those that do not go on give them back."""
        best = self._continuations()
        self._keep([continuation for continuation in best[: self.width] if continuation.reason is not None])
        going = [continuation for continuation in best if continuation.reason is None]
        going = sorted(going, key=lambda continuation: -continuation.score)[: self.width]
        if not going and not self.finished:
            raise InvalidRequestError("logit_bias, a penalty, the constraint or logits_processor left no beam a token that may follow")
        self.over = not going or self._is_decided(going[0].score)
        if self.over:
            self.live.clear()
        else:
            self._go_on(going, scheduler)

    def _continuations(self) -> list[Continuation]:
        """The best of all beams, best first, or as they were drawn."""
        beams = [(beam, beam.ids, beam.scores) for beam in self.live if beam.ids is not None and beam.scores is not None]
        tokens = np.concatenate([ids for _, ids, _ in beams])
        totals = np.concatenate([beam.score + scores.astype(np.float64) for beam, _, scores in beams])
        owners = np.repeat(np.arange(len(beams)), [len(ids) for _, ids, _ in beams])
        chosen = largest(self._keys(totals), self.looked_at if len(totals) else 0)
        return [self._continuation(beams[owners[i]][0], int(tokens[i]), float(totals[i])) for i in chosen]

    def _keys(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """What continuations are ordered by. Gumbel noise makes the order that of draws without replacement from the softmax (Yellott,
        1977; Kool et al., 2019), keyed by the seed and the position alone, as every draw is."""
        if self.request.params.temperature == 0.0:
            return totals
        position = len(self.live[0].sequence.tokens)
        uniform = np.random.Generator(np.random.Philox(key=self.request.seed, counter=[0, 0, 0, position])).random(len(totals))
        return totals - np.log(-np.log(np.maximum(uniform, 2.0**-54)))

    def _continuation(self, parent: Beam, token: int, score: float) -> Continuation:
        """Ends by what ends any answer."""
        sequence, text = parent.sequence, parent.text
        if token in self.request.ends:
            return Continuation(parent, token, score, text, "stop")
        if text is not None:
            text = text.fork()
            text.push((token,))
        if (text is not None and text.stopped is not None) or sequence.sampler.finishes(token):
            return Continuation(parent, token, score, text, "stop")
        return Continuation(parent, token, score, text, "length" if sequence.generated + 1 == sequence.limit else None)

    def _keep(self, ended: list[Continuation]) -> None:
        """Takes what ended among the hypotheses, as far as it is better than those that there are."""
        for continuation in ended:
            sequence = continuation.parent.sequence
            tokens = [*sequence.tokens[len(self.request.prompt) :], continuation.token]
            assert continuation.reason is not None
            score = self._normalized(continuation.score, len(tokens))
            self.finished.append(Hypothesis(tokens, score, continuation.logprobs, continuation.reason))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]

    def _is_decided(self, best: float) -> bool:
        """Whether there are hypotheses enough, and the best of the beams that go on, with this score, is not expected to be better."""
        if len(self.finished) < self.width:
            return False
        params, sequence = self.request.params, self.live[0].sequence
        if params.early_stopping is True:
            return True
        at_most = params.early_stopping == "never" and params.length_penalty > 0.0  # the score can grow with the length
        return self._normalized(best, sequence.limit if at_most else sequence.generated + 1) <= self.finished[-1].score

    def _normalized(self, score: float, length: int) -> float:
        return float(score / length**self.request.params.length_penalty)

    def _go_on(self, going: list[Continuation], scheduler: Scheduler) -> None:
        """Gives each continuation a sequence: its parent's, or, where that is taken, one whose own beam ended."""
        parents = {continuation.parent.sequence for continuation in going}
        unused = [sequence for sequence in self.request.sequences if sequence not in parents]
        live: list[Beam] = []
        for continuation in going:
            sequence = continuation.parent.sequence
            if sequence not in parents:
                source, sequence = sequence, unused.pop(0)
                scheduler.branch(source, sequence)
                sequence.sampler = source.sampler.fork()
            parents.discard(sequence)
            live.append(Beam(sequence, continuation.text, continuation.score, continuation.logprobs))
        for sequence in unused:
            scheduler.remove(sequence)
        for beam, continuation in zip(live, going, strict=True):
            beam.sequence.sampler.take(continuation.token)
            beam.sequence.append(continuation.token, scheduler.context)
        self.live = live


def candidates(scores: NDArray[np.float32], params: SamplingParams, looked_at: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and scores of the tokens that may follow one beam, out of log-probabilities [vocab] of which -inf never follows: the best
    `looked_at`, or, where they are drawn, those that temperature, top_k, top_p and min_p leave. As in transformers, these filters leave at
    least as many as it takes to end in every way and to go on, and nothing is scaled to sum to 1 again."""
    if scores.max() == -np.inf:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    if params.temperature == 0.0:
        ids = largest(scores, looked_at)
        kept = scores[ids]
    else:
        scaled = scores / np.float32(params.temperature)
        ids = _filtered(scaled, params, looked_at // params.num_beams)
        kept = scaled[ids]
    finite = np.isfinite(kept)
    return ids[finite], kept[finite]


def _filtered(scores: NDArray[np.float32], params: SamplingParams, least: int) -> NDArray[np.int64]:
    """The tokens that top_k, then top_p, then min_p leave, but `least` of them at least; with one of the latter two, best first."""
    pool = np.arange(len(scores)) if params.top_k == 0 else largest(scores, max(params.top_k, least))
    if params.top_p == 1.0 and params.min_p == 0.0:
        return pool
    weights = np.exp((scores[pool] - scores.max()).astype(np.float64))
    kept = max(least, int(np.count_nonzero(weights >= params.min_p)))
    if params.top_p == 1.0:
        return pool[largest(weights, kept)]
    share = params.top_p * weights.sum()
    for count in (min(kept, FEW), kept):
        order = largest(weights, count)
        reached = np.cumsum(weights[order])
        if reached[-1] >= share:
            return pool[order[: max(least, 1 + int(np.searchsorted(reached, share)))]]
    return pool[order]
