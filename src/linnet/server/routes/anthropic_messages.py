"""POST /v1/messages and /v1/messages/count_tokens: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Completion
from linnet.server.answer_formats import BareSchemaFormat, format_options
from linnet.server.content_blocks import InputMessages, OutputBlocks, TextBlock, as_messages
from linnet.server.errors import AnthropicErrorBody, ApiError, failures
from linnet.server.events import EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.messages import prompt_size
from linnet.server.schema import Body, CacheControl, Items, Texts, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf

router = APIRouter(tags=["Anthropic"], route_class=JsonRoute)

_NAMED_OTHERWISE = ("max_tokens", "stop", "n", "logprobs", "json_schema")


class CustomTool(Body):
    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl = None

    def for_model(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description or "", "parameters": self.input_schema}
        return {"type": "function", "function": function if self.strict is None else {**function, "strict": self.strict}}


class Choice(Body):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Body):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class Metadata(Body):
    user_id: str | None = Field(default=None, max_length=256, description="who asks; written to the server's log")


class NoThinking(Body):
    type: Literal["disabled"]


class OutputConfig(Body):
    format: BareSchemaFormat | None = Field(default=None, description="JSON by a schema")


class CountBody(Body):
    """What the model reads of a request."""

    model: str
    messages: InputMessages
    system: str | Items[TextBlock] | None = None
    tools: Items[CustomTool] | None = Field(default=None, description="functions that the model may call")
    tool_choice: Choice | NamedChoice | None = None
    output_config: OutputConfig | None = None
    thinking: NoThinking | None = None
    cache_control: CacheControl = None

    @property
    def form(self) -> dict[str, Any]:
        """What the answer must be, among the options of SamplingParams."""
        return format_options(None if self.output_config is None else self.output_config.format)

    @property
    def tools_for_model(self) -> list[dict[str, Any]] | None:
        return None if self.tools is None else [tool.for_model() for tool in self.tools]

    @property
    def choice_for_model(self) -> str | dict[str, Any]:
        if isinstance(self.tool_choice, NamedChoice):
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        return "auto" if self.tool_choice is None else {"any": "required"}.get(self.tool_choice.type, self.tool_choice.type)

    def conversation(self, service: Service) -> list[dict[str, Any]]:
        """The messages as chat templates take them. Raises a 400 for more than is tokenized, and where there is nothing to answer."""
        if self.messages[-1].role == "assistant":
            message = "the last message is the assistant's, and this server does not go on from an answer; let the user's be the last"
            raise ApiError(400, message, param="messages")
        messages = as_messages(self.messages, self.system)
        service.check_size(prompt_size(None, messages, self.tools_for_model))
        return messages


@with_sampling(_NAMED_OTHERWISE)
class MessageBody(CountBody):
    """A request for an answer."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    stop_sequences: Texts | None = Field(default=None, description="texts that end the answer; not part of it")
    stream: bool | None = None
    metadata: Metadata | None = None

    @property
    def params(self) -> SamplingParams:
        options = given_options(self, sampling_names(_NAMED_OTHERWISE))
        return SamplingParams(max_tokens=self.max_tokens, stop=self.stop_sequences or (), **options, **self.form)


class TokenCount(BaseModel):
    input_tokens: int


class MessageUsage(BaseModel):
    """input_tokens: those of the prompt that were not found in the cache."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0
    output_tokens: int


class MessageObject(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


@router.post("/v1/messages", response_model=MessageObject, responses=failures(AnthropicErrorBody))
async def create_message(body: MessageBody, service: ServiceOf) -> Response | MessageObject:
    """Answers a conversation, with texts and uses of tools as blocks; with `stream` in events."""
    params = body.params
    parallel = body.tool_choice is None or not body.tool_choice.disable_parallel_tool_use
    asked = body.conversation(service), params, body.tools_for_model, body.choice_for_model, parallel
    if body.stream:
        return EventStream(_events(body, asked, service), params)
    async with service.using(body, body.model) as llm, service.generating(llm, body, *asked) as handle:
        blocks = OutputBlocks()
        async for chunk in handle:
            for piece in chunk.events:
                list(blocks.add(piece))
        [completion] = await handle.aresult()
    return _message(body.model, blocks.complete, completion)


@router.post("/v1/messages/count_tokens", responses=failures(AnthropicErrorBody))
async def count_tokens(body: CountBody, service: ServiceOf) -> TokenCount:
    """How many tokens the model would read, found in the cache or not: of a schema it reads none, but one that no answer could keep to is
    refused, as it is with the message itself."""
    messages, params = body.conversation(service), SamplingParams(**body.form)
    async with service.using(body, body.model) as llm:
        tokens = await service.tokenized(llm, messages, params, body.tools_for_model, body.choice_for_model)
    return TokenCount(input_tokens=len(tokens))


async def _events(body: MessageBody, asked: tuple[Any, ...], service: Service) -> AsyncGenerator[bytes, None]:
    model, blocks = body.model, OutputBlocks()

    def named(data: dict[str, Any]) -> bytes:
        return event(data, data["type"])

    async with service.using(body, model) as llm, service.generating(llm, body, *asked) as handle:
        usage = MessageUsage(input_tokens=len(handle.prompt_token_ids), cache_read_input_tokens=0, output_tokens=0)
        begun = MessageObject(id=_new_id(), model=model, content=[], stop_reason=None, stop_sequence=None, usage=usage)
        yield named({"type": "message_start", "message": begun.model_dump()})
        async for chunk in handle:
            for piece in chunk.events:
                for data in blocks.add(piece):
                    yield named(data)
        [completion] = await handle.aresult()
    for data in blocks.end():
        yield named(data)
    whole = _message(model, [], completion)
    delta = {"stop_reason": whole.stop_reason, "stop_sequence": whole.stop_sequence}
    yield named({"type": "message_delta", "delta": delta, "usage": whole.usage.model_dump()})
    yield named({"type": "message_stop"})


def _message(model: str, content: list[dict[str, Any]], completion: Completion) -> MessageObject:
    used = completion.usage
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    return MessageObject(
        id=_new_id(),
        model=model,
        content=content,
        stop_reason="stop_sequence" if completion.stop_text is not None else reasons.get(completion.finish_reason, "end_turn"),
        stop_sequence=completion.stop_text,
        usage=MessageUsage(
            input_tokens=used.prompt_tokens - used.cached_tokens,
            cache_read_input_tokens=used.cached_tokens,
            output_tokens=used.completion_tokens,
        ),
    )


def _new_id() -> str:
    return f"msg_{uuid.uuid4().hex}"
