"""POST /v1/completions: https://platform.openai.com/docs/api-reference/completions, with echo."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.handle import Handle
from linnet.outputs import Chunk, Completion
from linnet.server.events import DONE, EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.logprobs import CompletionLogprobs
from linnet.server.merging import merged
from linnet.server.messages import prompt_size
from linnet.server.routes.usage import StreamedBody, UsageObject, usage
from linnet.server.schema import SomeTokenIds, User, as_list, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf
from linnet.text.tokenizer import Tokenizer

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

MAX_PROMPTS = 256
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own, of this API alone."""

_NAMED_OTHERWISE = ("logprobs",)
_Several = Field(min_length=1, max_length=MAX_PROMPTS)
_Prompts = Annotated[list[str], _Several] | Annotated[list[SomeTokenIds], _Several]


@with_sampling(_NAMED_OTHERWISE)
class CompletionBody(StreamedBody):
    model: str
    prompt: str | SomeTokenIds | _Prompts = Field(description="a text, token ids, or several of either")
    echo: bool | None = Field(default=None, description="begin the answer with the prompt, and its log-probabilities with the prompt's")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(default=None, description="log-probabilities, and so many candidates")
    user: User = None

    @property
    def prompts(self) -> list[Any]:
        return as_list(self.prompt)

    @property
    def params(self) -> SamplingParams:
        options = {"max_tokens": DEFAULT_MAX_TOKENS, **given_options(self, sampling_names(_NAMED_OTHERWISE))}
        if self.logprobs is not None:
            options["logprobs"] = self.logprobs
            options["prompt_logprobs"] = self.logprobs if self.echo else None
        return SamplingParams(**options)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class CompletionObject(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageObject


@router.post("/v1/completions", response_model=CompletionObject)
async def create_completion(body: CompletionBody, service: ServiceOf) -> Response | CompletionObject:
    """Completes texts as they stand, without a chat template."""
    service.check_size(prompt_size(None, *(prompt for prompt in body.prompts if isinstance(prompt, str))))
    params = body.params
    service.check_samples(params.n)
    body.check_stream()
    if body.stream:
        return EventStream(_events(body, params, service), params)
    async with _answering(body, params, service) as answers:
        found = [await answer.handle.aresult() for answer in answers]
        choices = [answer.choice(completion) for answer, each in zip(answers, found, strict=True) for completion in each]
    return CompletionObject(id=_new_id(), created=int(time.time()), model=body.model, choices=choices, usage=usage(*found))


@dataclass
class _Answer:
    """To one of the prompts. first: the index of its first choice."""

    handle: Handle
    tokenizer: Tokenizer
    first: int
    echo: str | None
    logprobs: bool
    begun: dict[int, CompletionLogprobs] = field(default_factory=dict)

    def choice(self, completion: Completion) -> CompletionChoice:
        """A whole sample."""
        return self._choice(completion.index, completion.text, completion.token_ids, completion.logprobs, completion.finish_reason)

    def piece(self, chunk: Chunk) -> CompletionChoice:
        """What a chunk adds to its sample."""
        return self._choice(chunk.index, chunk.text, chunk.token_ids, chunk.logprobs, chunk.finish_reason)

    def _choice(self, index: int, text: str, token_ids: Sequence[int], logprobs: Any, reason: str | None) -> CompletionChoice:
        record = None
        echoed = index not in self.begun and self.echo is not None
        lines = self.begun.setdefault(index, CompletionLogprobs(self.tokenizer, self.handle.continues, len(self.echo or "")))
        if self.logprobs:
            record = lines.add(zip(token_ids, logprobs or (), strict=False))
            if echoed:
                prompt = self._of_prompt()
                record = {name: prompt[name] + record[name] for name in record}
        return CompletionChoice(
            index=self.first + index, text=(self.echo or "") + text if echoed else text, logprobs=record, finish_reason=reason
        )

    def _of_prompt(self) -> dict[str, Any]:
        entries = self.handle.prompt_logprobs or ()
        return CompletionLogprobs(self.tokenizer, continues=False).add(zip(self.handle.prompt_token_ids, entries, strict=False))


@asynccontextmanager
async def _answering(body: CompletionBody, params: SamplingParams, service: Service) -> AsyncIterator[list[_Answer]]:
    """All prompts at once."""
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(service.using(body, body.model))
        tokenizer = service.tokenizer(llm)
        answers: list[_Answer] = []
        for prompt in body.prompts:
            handle = await stack.enter_async_context(service.generating(llm, body, prompt, params, continues=bool(prompt)))
            echo = None if not body.echo else prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
            answers.append(_Answer(handle, tokenizer, len(answers) * params.n, echo, body.logprobs is not None))
        yield answers


async def _events(body: CompletionBody, params: SamplingParams, service: Service) -> AsyncGenerator[bytes, None]:
    head = {"id": _new_id(), "object": "text_completion", "created": int(time.time()), "model": body.model}
    found: list[list[Completion]] = [[] for _ in body.prompts]
    async with _answering(body, params, service) as answers:
        async for prompt, chunk in merged([answer.handle for answer in answers]):
            piece = answers[prompt].piece(chunk)
            if piece.text or piece.logprobs is not None or piece.finish_reason is not None:
                yield event({**head, "choices": [piece.model_dump()]})
            if chunk.completion is not None:
                found[prompt].append(chunk.completion)
    if body.reports_usage:
        yield event({**head, "choices": [], "usage": usage(*found).model_dump()})
    yield DONE


def _new_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"
