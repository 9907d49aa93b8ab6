"""The results of generation: plain records."""

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
    """Tokens of a prompt and of one answer to it, its end token included.

    cached_tokens: tokens of the prompt whose keys and values were found in the prefix cache. drafted_tokens: how many tokens were guessed
    ahead (see SamplingParams.speculation); accepted_tokens: how many of those guesses were right, and so took no step of their own. These
    two depend on how long steps take, and `==` ignores them."""

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

    index: which of the `n` samples. text: the answer without its end token, its stop text and its tool calls ("" if the model has no
    tokenizer). If the prompt was a text, the answer continues it, and may begin with a space; otherwise it is a text by itself, as the
    tokenizer decodes its tokens. token_ids: every token generated, including the one that ended the answer.
    finish_reason: "stop" (end token, stop id or stop text), "tool_calls" (the same, and the model called tools), or "length" (max_tokens
    or the context was reached). logprobs: one entry per token, if asked for.
    prompt_logprobs: one entry per prompt token, None for the first; if asked for, or if max_tokens is 0. seed: reproduces the answer.
    beam_score: what beam search ranked it by, the sum of its log-probabilities divided by length**length_penalty.
    stop_text: the stop text that ended it, if one did. tool_calls: the model's complete calls of the tools that it was given.
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
        """The answer as a message, to continue the conversation with."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        return {**message, "tool_calls": [call.message for call in self.tool_calls]} if self.tool_calls else message


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it comes: the text that this token made certain (often "", while a character or a possible stop text is
    incomplete). completion: the whole answer, on its last chunk; None before. events: the text and the pieces of tool calls, in the order
    of the answer."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: EndReason | None
    completion: Completion | None
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class Candidate:
    """A possible next token: its text (part of a character becomes U+FFFD) and its log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TraceStep:
    """One token, at `position` of the sequence, and the likeliest candidates for its place, best first.

    entropy: of the distribution over all tokens, in bits. text: what the token added to the answer (see `Chunk`). in_prompt: whether the
    token belongs to the prompt. completion: the whole answer, on the last step.
    """

    position: int
    chosen: Candidate
    candidates: list[Candidate]
    entropy: float
    text: str
    in_prompt: bool = False
    completion: Completion | None = None
