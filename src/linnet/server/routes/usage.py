"""Tokens counted as OpenAI's API reports them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from linnet.outputs import Completion
from linnet.server.schema import Body


class StreamOptions(Body):
    include_usage: bool | None = Field(default=None, description="send the usage, in a last chunk without choices")


class PromptDetails(BaseModel):
    cached_tokens: int


class UsageObject(BaseModel):
    """Of each prompt, counted once, and all samples of its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def usage(*answers: Sequence[Completion]) -> UsageObject:
    """answers: the samples of each prompt."""
    prompt = sum(samples[0].usage.prompt_tokens for samples in answers)
    cached = sum(samples[0].usage.cached_tokens for samples in answers)
    generated = sum(sample.usage.completion_tokens for samples in answers for sample in samples)
    return UsageObject(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )
