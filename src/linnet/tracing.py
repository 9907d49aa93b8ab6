"""From the chunks of an answer to the steps of its trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from linnet.engine.request import Request
from linnet.engine.sampling import TokenLogprob
from linnet.outputs import Candidate, Chunk, TraceStep

if TYPE_CHECKING:
    from linnet.text.tokenizer import Tokenizer


def trace_steps(request: Request, chunks: Iterable[Chunk], tokenizer: Tokenizer | None) -> Iterator[TraceStep]:
    """A step for every token of the answer as it comes; if the request asks for them, first one for every token of the prompt."""
    prompt_due = request.params.prompt_logprobs is not None
    position = len(request.prompt)
    for chunk in chunks:
        if prompt_due:  # the first chunk comes once the whole prompt has been through the model
            prompt_due = False
            steps = _prompt_steps(request, tokenizer)
            if steps and not chunk.token_ids:
                steps[-1] = replace(steps[-1], completion=chunk.completion)
            yield from steps
        for entry in chunk.logprobs or ():  # of the one token that a chunk has
            yield TraceStep(position, *_candidates(entry, tokenizer), entry.entropy, chunk.text, completion=chunk.completion)
            position += 1


def token_text(token: int, tokenizer: Tokenizer | None) -> str:
    """The text of a single token, in which part of a character becomes U+FFFD; "" without a tokenizer."""
    return "" if tokenizer is None else tokenizer.token_bytes(token).decode("utf-8", "replace")


def _prompt_steps(request: Request, tokenizer: Tokenizer | None) -> list[TraceStep]:
    steps = []
    for position, entry in enumerate(request.prompt_logprobs or ()):
        if entry is not None:
            chosen, candidates = _candidates(entry, tokenizer)
            steps.append(TraceStep(position, chosen, candidates, entry.entropy, "", in_prompt=True))
    return steps


def _candidates(entry: TokenLogprob, tokenizer: Tokenizer | None) -> tuple[Candidate, list[Candidate]]:
    """The chosen token, and the likeliest alternatives."""
    pairs = ((entry.token_id, entry.logprob), *entry.top)
    chosen, *others = (Candidate(token, token_text(token, tokenizer), logprob) for token, logprob in pairs)
    return chosen, others
