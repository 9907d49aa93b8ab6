"""Beam search: several answers to one prompt are continued side by side, and the best of the finished ones are given.

Every option means what it means in transformers' `generate(num_beams=...)`, so that both give the same tokens. To the scheduler, beams are
sequences like any others, rows of the same steps; this file holds only the choice among them.
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
"""So many tokens mostly add up to `top_p`: these are sorted first, and the whole vocabulary only if they do not."""


class Text(Protocol):
    """The text of an answer as it grows, which tells whether a stop has ended the answer."""

    @property
    def stopped(self) -> str | None: ...

    def fork(self) -> Text: ...

    def push(self, token_ids: Iterable[int], /) -> str: ...


@dataclass(eq=False)
class Beam:
    """An unfinished answer. score: the sum of its log-probabilities. logprobs: of its tokens, if asked for. ids, scores: once the model
    has computed this beam's logits, the tokens that may follow and their float32 log-probabilities; logits: float32 [vocab], if they are
    still needed."""

    sequence: Sequence
    text: Text | None
    score: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()
    ids: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Continuation:
    """A beam with one more token. score: that of the beam with the token. reason: why the answer ends with this token, if it does."""

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
    """A finished answer. score: the sum of its log-probabilities over length**length_penalty, the end token counted."""

    tokens: list[int]
    score: float
    logprobs: tuple[TokenLogprob, ...]
    reason: FinishReason


class BeamSearch:
    """The beams of one request.

    At each length, once every beam has its logits, the best continuations of all beams are ranked together: at least twice as many as
    there are beams, so that `num_beams` remain even if the others end. Those that end, if they are among the first `num_beams`, become
    hypotheses, of which the best `num_beams` are kept; the best that do not end become the next beams. With a temperature, continuations
    are drawn without replacement from the softmax of their scores instead (beam sampling), and ranked in the order of the draws.

    live: the beams, best first; at first only the prompt. finished: the hypotheses, best first. over: whether the search is at its end,
    by the rule that `early_stopping` chose.
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
        """Whether every beam has its candidates for the next token."""
        return not self.over and all(beam.ids is not None for beam in self.live)

    def report(self, sequence: Sequence, logits: NDArray[np.float32]) -> None:
        """Takes the logits [vocab] after a beam's last token; a second time, if the sequence was preempted and recomputed."""
        [beam] = [beam for beam in self.live if beam.sequence is sequence]
        scores = sequence.sampler.scores(logits, sequence.tokens, sequence.generated)
        beam.ids, beam.scores = candidates(scores, self.request.params, self.looked_at)
        if self.request.params.logprobs is not None:
            beam.logits = logits.copy()

    def advance(self, scheduler: Scheduler) -> None:
        """Gives each beam its next token. Beams that continue one sequence share its pages; sequences without a beam free theirs."""
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
        """The best continuations of all beams, best first, or in the order of the draws."""
        beams = [(beam, beam.ids, beam.scores) for beam in self.live if beam.ids is not None and beam.scores is not None]
        tokens = np.concatenate([ids for _, ids, _ in beams])
        totals = np.concatenate([beam.score + scores.astype(np.float64) for beam, _, scores in beams])
        owners = np.repeat(np.arange(len(beams)), [len(ids) for _, ids, _ in beams])
        chosen = largest(self._keys(totals), self.looked_at if len(totals) else 0)
        return [self._continuation(beams[owners[i]][0], int(tokens[i]), float(totals[i])) for i in chosen]

    def _keys(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """The keys that continuations are sorted by. With a temperature, Gumbel noise is added: sorting then draws from the softmax without
        replacement (Yellott, 1977; Kool et al., 2019). The noise depends on the seed and the position alone, as every draw does."""
        if self.request.params.temperature == 0.0:
            return totals
        position = len(self.live[0].sequence.tokens)
        uniform = np.random.Generator(np.random.Philox(key=self.request.seed, counter=[0, 0, 0, position])).random(len(totals))
        return totals - np.log(-np.log(np.maximum(uniform, 2.0**-54)))

    def _continuation(self, parent: Beam, token: int, score: float) -> Continuation:
        """The continuation, with a reason if it ends: the same rules as for any answer."""
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
        """Adds continuations that ended to the hypotheses, if they are better than the ones already there."""
        for continuation in ended:
            sequence = continuation.parent.sequence
            tokens = [*sequence.tokens[len(self.request.prompt) :], continuation.token]
            assert continuation.reason is not None
            score = self._normalized(continuation.score, len(tokens))
            self.finished.append(Hypothesis(tokens, score, continuation.logprobs, continuation.reason))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]

    def _is_decided(self, best: float) -> bool:
        """Whether there are enough hypotheses, and the best live beam, whose score is `best`, is not expected to beat them."""
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
        """Gives each continuation a sequence: its parent's, or if that is taken already, one that no beam continues."""
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
    """Ids and scores of the tokens that may follow one beam, from its log-probabilities [vocab], in which -inf is never chosen: the best
    `looked_at`, or for draws, those that temperature, top_k, top_p and min_p keep. As in transformers, the filters keep at least one token
    more than there are end tokens, so that a beam can always continue, and the rest is not renormalized."""
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
    """The tokens that top_k, then top_p, then min_p keep, but at least `least` of them; best first if top_p or min_p is set."""
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
