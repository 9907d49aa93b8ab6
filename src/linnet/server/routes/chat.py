"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Completion
from linnet.server.events import DONE, EventStream, event
from linnet.server.generation import chunks, completions, submit
from linnet.server.json_body import JsonRoute
from linnet.server.messages import ChatMessages, as_template_messages
from linnet.server.routes.usage import UsageObject, usage
from linnet.server.schema import Body, given_options, sampling_body, sampling_names
from linnet.server.service import Service, ServiceOf

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_NAMED_OTHERWISE = ("logprobs", "json_schema", "json_object")


class StreamOptions(Body):
    include_usage: bool | None = Field(default=None, description="send the usage, in a last chunk without choices")


class _ChatBody(Body):
    model: str
    messages: ChatMessages
    max_completion_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(default=None, description="the same as max_tokens")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(default=None, description="report the log-probability of each token")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(default=None, description="and of so many candidates")
    user: str | None = Field(default=None, max_length=256, description="who asks; written to the server's log")


if TYPE_CHECKING:
    ChatBody = _ChatBody
else:
    ChatBody = sampling_body("ChatBody", _NAMED_OTHERWISE, _ChatBody)


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
    async with service.models.use(body.model) as llm:
        handle = await submit(llm, as_template_messages(body.messages), params, service.timeout(params))
        found = await completions(handle)
    choices = [_choice(completion) for completion in found]
    return ChatCompletion(id=_new_id(), created=int(time.time()), model=body.model, choices=choices, usage=usage(found))


def _params(body: ChatBody) -> SamplingParams:
    options = given_options(body, sampling_names(_NAMED_OTHERWISE))
    if body.max_completion_tokens is not None:
        options["max_tokens"] = body.max_completion_tokens
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    return SamplingParams(**options)


def _choice(completion: Completion) -> ChatChoice:
    message = AnswerMessage(content=completion.text)
    return ChatChoice(index=completion.index, message=message, finish_reason=completion.finish_reason)


async def _events(body: ChatBody, params: SamplingParams, service: Service) -> AsyncGenerator[bytes, None]:
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}

    def of(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    found: list[Completion] = []
    async with service.models.use(body.model) as llm:
        handle = await submit(llm, as_template_messages(body.messages), params, service.timeout(params))
        for index in range(params.n):
            yield of(index, {"role": "assistant", "content": ""})
        async with aclosing(chunks(handle)) as stream:
            async for chunk in stream:
                if chunk.text:
                    yield of(chunk.index, {"content": chunk.text})
                if chunk.completion is not None:
                    found.append(chunk.completion)
                    yield of(chunk.index, {}, chunk.finish_reason)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": usage(found).model_dump()})
    yield DONE


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
