"""A request, its samples, and their outputs. Plain state: the engine does the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from linnet.engine.constraint import Constraint
from linnet.engine.pages import Pages
from linnet.engine.params import SamplingParams
from linnet.engine.sampling import Sampler, TokenLogprob, token_logprob

if TYPE_CHECKING:
    from linnet.engine.beams import BeamSearch, Text
    from linnet.engine.lookup import PairIndex
    from linnet.engine.speculative import Speculation

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Output:
    """One step of one sample: the token that it added (None only for max_tokens=0), why the sample ended, if it did, and the time of the
    step, by time.perf_counter()."""

    sample: int
    token_id: int | None
    logprob: TokenLogprob | None
    finish_reason: FinishReason | None
    at: float


@dataclass(eq=False)
class Request:
    """What a caller wants of the engine, and how far it is.

    prompt: token ids. seed: determines every draw. end_ids: token ids that end an answer (ignore_eos is already applied).
    stop_rule: called as (sample, token id) for every token that is no end token; True ends the answer. The rule itself has to
    respect `min_tokens`. prompt_logits: called as (position, logits float32 [k, vocab]) with the logits after the prompt's tokens from
    `position` on, in order and in pieces; the array is valid during the call only. By default it fills `prompt_logprobs`, if params ask
    for them or max_tokens is 0. logits_from: the first position whose logits it wants; earlier tokens may come from the prefix cache.
    hidden: `prompt_logits` gets hidden states, float32 [k, hidden], instead; such a request generates nothing (max_tokens is 0).
    cache: False recomputes the whole sequence for every token.
    constraint: what every answer must satisfy, in its initial state; each sample advances its own fork. text: likewise the text of a
    beam, if a beam can end because of its text.
    beams: the beam search, if there is one; the sequences are then its beams, and all outputs come at the end, as the best of them.
    beam_scores: what those were ranked by.
    trunk: the pages of the prompt, kept until all samples that share them have begun. cached_tokens: how many of the prompt's tokens
    were found in the prefix cache. started: whether it has been part of a step. pairs: an index of the prompt's pairs of neighbouring
    tokens, built when speculation first needs it.
    """

    prompt: list[int]
    params: SamplingParams
    seed: int
    end_ids: frozenset[int] = frozenset()
    stop_rule: Callable[[int, int], bool] | None = None
    prompt_logits: Callable[[int, NDArray[np.float32]], None] | None = None
    logits_from: int = 0
    hidden: bool = False
    cache: bool = True
    constraint: Constraint | None = None
    text: Text | None = None

    ends: frozenset[int] = field(init=False)
    sequences: list[Sequence] = field(default_factory=list, init=False)
    outputs: deque[Output] = field(default_factory=deque, init=False)
    prompt_logprobs: list[TokenLogprob | None] | None = field(default=None, init=False)
    unfinished: int = field(default=0, init=False)
    started: bool = field(default=False, init=False)
    done: bool = field(default=False, init=False)
    error: Exception | None = field(default=None, init=False)
    submitted_at: float = field(default=0.0, init=False)
    trunk: Pages = field(default_factory=list, init=False)
    cached_tokens: int = field(default=0, init=False)
    pairs: PairIndex | None = field(default=None, init=False)
    beams: BeamSearch | None = field(default=None, init=False)
    beam_scores: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.ends = self.end_ids | set(self.params.stop_token_ids)
        if self.prompt_logits is None and (self.params.prompt_logprobs is not None or self.params.max_tokens == 0):
            self.prompt_logprobs = [None] * len(self.prompt)  # nothing predicts the first token
            self.prompt_logits = self._score

    def guessed(self, sample: int) -> tuple[int, int]:
        """How many tokens were guessed ahead for a sample, and how many of the guesses were right."""
        if not self.sequences:  # run by another engine than ours
            return 0, 0
        sequence = self.sequences[min(sample, len(self.sequences) - 1)]
        return sequence.drafted, sequence.accepted

    def _score(self, position: int, logits: NDArray[np.float32]) -> None:
        assert self.prompt_logprobs is not None
        for index, row in enumerate(logits[: len(self.prompt) - 1 - position], position + 1):
            self.prompt_logprobs[index] = token_logprob(row, self.prompt[index], self.params.prompt_logprobs or 0)


@dataclass(eq=False)
class Sequence:
    """One sample of a request, or one beam.

    tokens: prompt and answer. limit: most tokens the answer may have. need: most KV pages that it can come to hold, of each group.
    order: what stands before what. start: the first token that the model sees, whose position is 0. computed: how many tokens from
    there on have their keys and values in the pages. scored: the position whose logits `prompt_logits` gets next. slot: row of the page
    table while running, else -1. begun: whether it ever ran. last_at: when it had its last token, by time.perf_counter(). names, named:
    what the prefix cache calls its pages, and how many it has named. speculation: what is known of guessing it. draft_computed:
    `computed` in the draft model's cache. drafted, accepted: how many tokens were guessed, and how many of these came.
    """

    request: Request
    index: int
    tokens: list[int]
    limit: int
    need: list[int]
    sampler: Sampler
    order: tuple[int, int, int] = (0, 0, 0)
    start: int = 0
    computed: int = 0
    scored: int = 0
    slot: int = -1
    begun: bool = False
    pages: Pages = field(default_factory=list)
    last_at: float | None = None
    names: list[bytes] = field(default_factory=list)
    named: int = 0
    speculation: Speculation | None = None
    draft_computed: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def lacking(self) -> int:
        """How many tokens the model sees whose keys and values are not in the pages."""
        return len(self.tokens) - self.start - self.computed

    def append(self, token: int, context: int) -> None:
        """One token more, with what it makes necessary to compute anew."""
        self.tokens.append(token)
        if not self.request.cache:
            self.computed = 0
        self.slide(context)

    def slide(self, context: int) -> None:
        """Lets go of tokens from the front until the context holds the rest, all of which is then to be computed anew."""
        if len(self.tokens) - self.start > context:
            self.start, self.computed, self.draft_computed = len(self.tokens) - context, 0, 0

    @property
    def scores_prompt(self) -> bool:
        """Whether the rows now computed are owed to `prompt_logits`; the first sample does it for all."""
        return self.request.prompt_logits is not None and self.index == 0 and self.generated == 0

    def owed(self, count: int) -> int:
        """How many of the next `count` tokens have logits that `prompt_logits` has not had: the last ones."""
        return max(0, self.computed + count - self.scored) if self.scores_prompt else 0
