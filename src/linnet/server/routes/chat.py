"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Completion
from linnet.server.errors import ApiError
from linnet.server.events import DONE, EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.logprobs import chat_logprobs
from linnet.server.messages import ChatMessages, as_template_messages
from linnet.server.routes.usage import StreamOptions, UsageObject, usage
from linnet.server.schema import Body, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf
from linnet.text.tokenizer import Tokenizer

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_NAMED_OTHERWISE = ("logprobs", "json_schema", "json_object")


@with_sampling(_NAMED_OTHERWISE)
class ChatBody(Body):
    model: str
    messages: ChatMessages
    max_completion_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(default=None, description="the same as max_tokens")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(default=None, description="report the log-probability of each token")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(default=None, description="and of so many candidates")
    user: str | None = Field(default=None, max_length=256, description="who asks; written to the server's log")


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None = None
    finish_reason: str


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject


@router.post("/v1/chat/completions", response_model=ChatCompletion)
async def create_chat_completion(body: ChatBody, service: ServiceOf) -> Response | ChatCompletion:
    """Answers a conversation; with `stream` in chunks, as server-sent events."""
    params = _params(body)
    service.check_samples(params.n)
    service.check_size(*(message.text for message in body.messages))
    if body.stream:
        return EventStream(_events(body, params, service))
    messages = as_template_messages(body.messages)
    async with service.models.use(body.model) as llm, service.generating(llm, messages, params) as handle:
        found = await handle.aresult()
        choices = [_choice(completion, service.tokenizer(llm)) for completion in found]
    return ChatCompletion(id=_new_id(), created=int(time.time()), model=body.model, choices=choices, usage=usage(found))


def _params(body: ChatBody) -> SamplingParams:
    options = given_options(body, sampling_names(_NAMED_OTHERWISE))
    if body.max_completion_tokens is not None:
        if "max_tokens" in options:
            raise ApiError(400, "max_tokens and max_completion_tokens are the same; give one of them", param="max_completion_tokens")
        options["max_tokens"] = body.max_completion_tokens
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return SamplingParams(**options)


def _choice(completion: Completion, tokenizer: Tokenizer) -> ChatChoice:
    return ChatChoice(
        index=completion.index,
        message=AnswerMessage(content=completion.text),
        logprobs=chat_logprobs(completion.logprobs, tokenizer),
        finish_reason=completion.finish_reason,
    )


async def _events(body: ChatBody, params: SamplingParams, service: Service) -> AsyncGenerator[bytes, None]:
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}

    def of(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]})

    found: list[Completion] = []
    messages = as_template_messages(body.messages)
    async with service.models.use(body.model) as llm, service.generating(llm, messages, params) as handle:
        tokenizer = service.tokenizer(llm)
        for index in range(params.n):
            yield of(index, {"role": "assistant", "content": ""})
        async for chunk in handle:
            if chunk.text or chunk.logprobs:
                yield of(chunk.index, {"content": chunk.text}, chat_logprobs(chunk.logprobs, tokenizer))
            if chunk.completion is not None:
                found.append(chunk.completion)
                yield of(chunk.index, {}, None, chunk.finish_reason)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": usage(found).model_dump()})
    yield DONE


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
