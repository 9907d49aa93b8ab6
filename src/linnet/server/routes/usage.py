"""Tokens counted as OpenAI's API reports them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from linnet.outputs import Completion


class PromptDetails(BaseModel):
    cached_tokens: int


class UsageObject(BaseModel):
    """Of a prompt, counted once, and all samples of its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def usage(completions: Sequence[Completion]) -> UsageObject:
    prompt, cached = completions[0].usage.prompt_tokens, completions[0].usage.cached_tokens
    generated = sum(completion.usage.completion_tokens for completion in completions)
    return UsageObject(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )
