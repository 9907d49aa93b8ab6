"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Chunk, Completion
from linnet.server.answer_formats import ChatFormat, format_options
from linnet.server.errors import ApiError
from linnet.server.events import DONE, EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.logprobs import chat_logprobs
from linnet.server.messages import ChatMessages, FunctionCall, ToolCall, as_template_messages, prompt_size
from linnet.server.routes.usage import StreamedBody, UsageObject, usage
from linnet.server.schema import Items, User, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf
from linnet.text.tokenizer import Tokenizer
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, TextDelta

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_NAMED_OTHERWISE = ("logprobs", "json_schema", "json_object")


@with_sampling(_NAMED_OTHERWISE)
class ChatBody(StreamedBody):
    model: str
    messages: ChatMessages
    max_completion_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(default=None, description="the same as max_tokens")
    logprobs: bool | None = Field(default=None, description="report the log-probability of each token")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(default=None, description="and of so many candidates")
    response_format: ChatFormat | None = Field(default=None, description="text, any JSON object, or JSON by a schema")
    tools: Items[dict[str, Any]] | None = Field(default=None, description="functions that the model may call")
    tool_choice: str | dict[str, Any] | None = Field(default=None, description="auto, none, required, or a function")
    parallel_tool_calls: bool | None = Field(default=None, description="false: the first call ends the answer")
    store: Literal[False] | None = Field(default=None, description="nothing is kept between requests")
    prompt_cache_key: str | None = Field(default=None, description="beginnings that were seen are found by themselves, whatever the key")
    user: User = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


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
    body.check_stream()
    service.check_size(prompt_size(body.messages, body.tools))
    messages = as_template_messages(body.messages)
    asked = messages, params, body.tools, body.tool_choice or "auto", body.parallel_tool_calls is not False
    if body.stream:
        return EventStream(_events(body, asked, params.n, service), params)
    async with service.using(body, body.model) as llm, service.generating(llm, body, *asked) as handle:
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
    return SamplingParams(**options, **format_options(body.response_format))


def _choice(completion: Completion, tokenizer: Tokenizer) -> ChatChoice:
    calls = [ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments_json)) for call in completion.tool_calls]
    message = AnswerMessage(content=None if calls and not completion.text else completion.text, tool_calls=calls or None)
    logprobs = chat_logprobs(completion.logprobs, tokenizer)
    return ChatChoice(index=completion.index, message=message, logprobs=logprobs, finish_reason=completion.finish_reason)


async def _events(body: ChatBody, asked: tuple[Any, ...], samples: int, service: Service) -> AsyncGenerator[bytes, None]:
    """asked: of `Service.generating`."""
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}

    def of(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]})

    found: list[Completion] = []
    async with service.using(body, body.model) as llm, service.generating(llm, body, *asked) as handle:
        tokenizer = service.tokenizer(llm)
        for index in range(samples):
            yield of(index, {"role": "assistant", "content": ""})
        async for chunk in handle:
            logprobs = chat_logprobs(chunk.logprobs, tokenizer)
            for delta in _deltas(chunk):
                yield of(chunk.index, delta, logprobs)
                logprobs = None
            if chunk.completion is not None:
                found.append(chunk.completion)
                yield of(chunk.index, {}, None, chunk.finish_reason)
    if body.reports_usage:
        yield event({**head, "choices": [], "usage": usage(found).model_dump()})
    yield DONE


def _deltas(chunk: Chunk) -> Iterator[dict[str, Any]]:
    """What a chunk adds to the message; something, at any rate, where it has log-probabilities to carry."""
    empty = True
    for piece in chunk.events:
        if isinstance(piece, TextDelta) and piece.text:
            yield {"content": piece.text}
        elif isinstance(piece, CallBegun):
            function = {"name": piece.name, "arguments": ""}
            yield {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}
        elif isinstance(piece, ArgumentsDelta):
            yield {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
        else:
            continue
        empty = False
    if empty and chunk.logprobs:
        yield {"content": ""}


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
