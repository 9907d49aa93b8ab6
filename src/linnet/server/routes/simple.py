"""Routes for teaching and scripts: one question, one answer, without a library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Completion, TraceStep
from linnet.prompts import Prompt
from linnet.server.errors import ApiError
from linnet.server.events import EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.logprobs import token_record
from linnet.server.messages import ChatMessages, as_template_messages, prompt_size
from linnet.server.schema import Body, Items, TokenId, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf

if TYPE_CHECKING:
    from linnet.handle import Handle
    from linnet.llm import LLM

router = APIRouter(prefix="/api", tags=["Simple"], route_class=JsonRoute)

_NOT_HERE = ("n", "logprobs")
_tracers = ThreadPoolExecutor(64, "linnet trace")
"""Threads of their own, each of which a trace has to its end: those of the event loop are for what others wait for."""

NAMES = sampling_names(_NOT_HERE)


class _Asked(Body):
    prompt: str | None = Field(default=None, min_length=1, description="a question, answered by the model's chat template if it has one")
    messages: ChatMessages | None = None
    model: str | None = Field(default=None, description="left out: the server's first")

    def check(self, service: Service) -> SamplingParams:
        """The options, once all of the body is known to be sound."""
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        service.check_size(prompt_size(self.messages, self.prompt))
        return SamplingParams(**given_options(self, NAMES))

    def as_prompt(self, llm: LLM) -> Prompt:
        """Messages; or the text, as the first of a conversation where the model knows what one is."""
        if self.messages is not None:
            return as_template_messages(self.messages)
        assert self.prompt is not None
        templates = llm.tokenizer.chat_templates if llm.tokenizer is not None else {}
        return [{"role": "user", "content": self.prompt}] if templates else self.prompt


@with_sampling(_NOT_HERE)
class SimpleChat(_Asked):
    stream: bool | None = Field(default=None, description="send the answer in pieces, as server-sent events")
    top: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None, description="with stream: report each token, its log-probability, and so many candidates for its place"
    )
    begin: Annotated[Items[TokenId], Field(max_length=2**20)] | None = Field(
        default=None, description="token ids that the answer begins with, as of an earlier one"
    )

    def check(self, service: Service) -> SamplingParams:
        params = super().check(service)
        return params if self.top is None else replace(params, logprobs=self.top)

    def as_prompt(self, llm: LLM) -> Prompt:
        prompt = super().as_prompt(llm)
        return [*llm.tokenize(prompt), *self.begin] if self.begin else prompt


@with_sampling(_NOT_HERE)
class SimpleTrace(_Asked):
    top: Annotated[int, Field(ge=0, le=100)] = Field(default=5, description="candidates for each token")


class SimpleAnswer(BaseModel):
    """generation_time: seconds. tokens_per_second: after the first; null with fewer than two."""

    response: str
    tokens_generated: int
    generation_time: float
    tokens_per_second: float | None
    finish_reason: str


class ModelInfo(BaseModel):
    name: str
    family: str
    parameters: int
    layers: int
    hidden: int
    vocab_size: int
    context: int
    file_bytes: int
    types: dict[str, int] = Field(description="bytes of tensors by their type in the file")
    has_chat_template: bool
    sampling: dict[str, float] | None = Field(description="what its publishers advise where a request says nothing; null: it is not open")


class Trace(BaseModel):
    response: str
    steps: list[dict[str, Any]]


@router.post("/chat", response_model=SimpleAnswer)
async def simple_chat(body: SimpleChat, service: ServiceOf) -> Response | SimpleAnswer:
    """The answer to a prompt or to messages."""
    params = body.check(service)
    if body.top is not None and not body.stream:
        raise ApiError(400, "top needs stream: true", param="top")
    if body.stream:
        return EventStream(_events(body, params, service), params)
    async with _answering(body, params, service) as (llm, handle):
        answer = _whole((await handle.aresult())[0])
        return answer.model_copy(update={"response": _beginning(body, llm) + answer.response})


@asynccontextmanager
async def _answering(body: SimpleChat, params: SamplingParams, service: Service) -> AsyncIterator[tuple[LLM, Handle]]:
    async with service.using(body, body.model) as llm:
        prompt = await asyncio.to_thread(body.as_prompt, llm)
        async with service.generating(llm, body, prompt, params, continues=True if body.begin else None) as handle:
            yield llm, handle


def _beginning(body: SimpleChat, llm: LLM) -> str:
    return llm.tokenizer.decode(body.begin) if body.begin and llm.tokenizer is not None else ""


async def _events(body: SimpleChat, params: SamplingParams, service: Service) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer_pieces(body, params, service)) as pieces:
        async for piece in pieces:
            yield event(piece)


async def answer_pieces(body: SimpleChat, params: SamplingParams, service: Service) -> AsyncGenerator[dict[str, Any], None]:
    """An answer as it comes, the whole of it last."""
    async with _answering(body, params, service) as (llm, handle):
        begun = _beginning(body, llm)
        if begun:
            yield {"text": begun}
        async for chunk in handle:
            tokens = [] if chunk.logprobs is None else [token_record(entry, service.tokenizer(llm)) for entry in chunk.logprobs]
            if chunk.text or tokens:
                yield {"text": chunk.text, "tokens": tokens} if tokens else {"text": chunk.text}
            if chunk.completion is not None:
                answer = _whole(chunk.completion)
                yield {"done": True, **answer.model_dump(), "response": begun + answer.response}


def _whole(completion: Completion) -> SimpleAnswer:
    return SimpleAnswer(
        response=completion.text,
        tokens_generated=completion.usage.completion_tokens,
        generation_time=completion.timings.total_s,
        tokens_per_second=completion.timings.tokens_per_s,
        finish_reason=completion.finish_reason,
    )


@router.get("/model_info")
async def model_info(service: ServiceOf, model: str | None = None) -> ModelInfo:
    """What a model is, from the headers of its files; it need not be open."""
    from linnet.look.report import inspect_model

    served = service.models.find(service.model_name(model))
    report = await asyncio.to_thread(inspect_model, served.settings.path)
    return ModelInfo(
        name=served.settings.name,
        family=report.spec.family,
        parameters=report.parameters.total,
        layers=len(report.spec.layers),
        hidden=report.spec.hidden,
        vocab_size=report.spec.vocab_size,
        context=report.spec.context if served.llm is None else served.llm.context,
        file_bytes=report.file_bytes,
        types={share.type: share.nbytes for share in report.types},
        has_chat_template=bool(report.chat_templates),
        sampling=None if served.llm is None else service.advised(served.llm),
    )


@router.post("/trace")
async def trace(body: SimpleTrace, service: ServiceOf) -> Trace:
    """For every token of an answer, what it might have been, and how likely."""
    params = body.check(service)
    async with service.using(body, body.model) as llm:
        steps = await _trace(llm, body, service.sampling(llm, body, params))
    completion = steps[-1].completion if steps else None
    records = [{name: value for name, value in asdict(step).items() if name != "completion"} for step in steps]
    return Trace(response=completion.text if completion is not None else "", steps=records)


async def _trace(llm: LLM, body: SimpleTrace, params: SamplingParams) -> list[TraceStep]:
    """In a thread, which stops at the next token once nobody waits for it."""
    left = threading.Event()

    def follow() -> list[TraceStep]:
        found = []
        with closing(llm.trace(body.as_prompt(llm), body.top, params, stream=True)) as steps:
            for step in steps:
                found.append(step)
                if left.is_set():
                    break
        return found

    try:
        return await asyncio.get_running_loop().run_in_executor(_tracers, copy_context().run, follow)
    finally:
        left.set()
