"""Tokens counted as OpenAI's API reports them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from linnet.outputs import Completion
from linnet.server.errors import ApiError
from linnet.server.schema import Body


class StreamOptions(Body):
    include_usage: bool | None = Field(default=None, description="send the usage, in a last chunk without choices")


class StreamedBody(Body):
    """A body whose answer may come in pieces."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_stream(self) -> None:
        """Raises a 400 for options of a stream where there is none."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true; without it the usage is always there", param="stream_options")

    @property
    def reports_usage(self) -> bool:
        """Whether the stream is to end with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


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
