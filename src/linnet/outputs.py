"""What generation gives back: plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from linnet.engine.request import FinishReason
from linnet.engine.sampling import TokenLogprob
from linnet.text.tool_calls.events import Event
from linnet.text.tool_calls.tools import ToolCall

EndReason: TypeAlias = FinishReason | Literal["tool_calls"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt and of one answer to it, its end token included. cached_tokens: those of the prompt whose keys and values
    were there already. drafted_tokens: those guessed for the answer (see SamplingParams.speculation), and accepted_tokens: how many of
    these came, and took no step of their own; these two depend on the times of steps and make no difference to ==."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = field(default=0, compare=False)
    accepted_tokens: int = field(default=0, compare=False)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds from submission to the first token (None without tokens) and to the end, and tokens a second after the first
    (None with fewer than two)."""

    first_token_s: float | None
    total_s: float
    tokens_per_s: float | None


@dataclass(frozen=True)
class Completion:
    """One sample of an answer.

    index: which of the `n` samples. text: the answer, without end token, stop text or anything after it ("" where the model
    has no tokenizer), and without its tool calls: what goes on with a prompt that is a text, so that it may begin with a space; else a
    text by itself, as the tokenizer decodes its tokens. token_ids: every token generated, the one that ended it included.
    finish_reason: "stop" (end token, stop id or stop text), "tool_calls" (the same, where there are any), or "length" (max_tokens or
    the context). logprobs: one entry a token, where asked for.
    prompt_logprobs: one entry a prompt token, None for the first, where asked for or max_tokens is 0. seed: what
    reproduces the answer. beam_score: what beam search compared it by: the sum of its log-probabilities over length**length_penalty.
    stop_text: the stop that ended it, if one did. tool_calls: the calls that the model made of tools that
    it was given, all complete.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: EndReason
    logprobs: list[TokenLogprob] | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprob | None] | None
    usage: Usage
    seed: int
    timings: Timings
    tool_calls: list[ToolCall] = field(default_factory=list)
    stop_text: str | None = None
    beam_score: float | None = None

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to go on with the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        return {**message, "tool_calls": [call.message for call in self.tool_calls]} if self.tool_calls else message


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it comes: the text that has become certain (often "", while a character or a possible stop is
    incomplete) with this token. `completion` is the whole answer, on its last chunk. events: the text, and the pieces of tool calls, in
    the order in which they stand in the answer."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: EndReason | None
    completion: Completion | None
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class Candidate:
    """A token that could have come: its text (part of a character becomes U+FFFD) and log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TraceStep:
    """One token, at `position` of the sequence, and the likeliest candidates for its place, best first.

    entropy: of all candidates, in bits. text: what the token added to the answer (see `Chunk`). in_prompt: whether it was given
    rather than chosen. completion: the whole answer, on the last step.
    """

    position: int
    chosen: Candidate
    candidates: list[Candidate]
    entropy: float
    text: str
    in_prompt: bool = False
    completion: Completion | None = None
