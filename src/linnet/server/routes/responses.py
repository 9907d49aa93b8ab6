"""POST /v1/responses: https://platform.openai.com/docs/api-reference/responses. Nothing is kept between requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from linnet.engine.params import SamplingParams
from linnet.outputs import Completion
from linnet.server.answer_formats import ResponseFormat, format_options
from linnet.server.errors import ApiError, api_error
from linnet.server.events import EventStream, event
from linnet.server.json_body import JsonRoute
from linnet.server.messages import prompt_size
from linnet.server.response_items import InputItems, OutputItems, as_messages
from linnet.server.schema import Body, Items, User, given_options, sampling_names, with_sampling
from linnet.server.service import Service, ServiceOf

if TYPE_CHECKING:
    from linnet.handle import Handle
    from linnet.llm import LLM

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_NAMED_OTHERWISE = ("max_tokens", "n", "logprobs", "json_schema", "json_object")
_KEPT = "this server keeps nothing between requests"


class FunctionTool(Body):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def for_model(self) -> dict[str, Any]:
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class NamedChoice(Body):
    type: Literal["function"]
    name: str


class TextOptions(Body):
    format: ResponseFormat | None = None


@with_sampling(_NAMED_OTHERWISE)
class ResponseBody(Body):
    model: str
    input: str | InputItems = Field(description="a text, or the items of a conversation")
    instructions: str | None = Field(default=None, description="what stands before the conversation, as the system's")
    max_output_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stream: bool | None = None
    text: TextOptions | None = Field(default=None, description="text, any JSON object, or JSON by a schema")
    tools: Items[FunctionTool] | None = Field(default=None, description="functions that the model may call")
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: the first call ends the answer")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(default=None, description="comes back as it is")
    truncation: Literal["disabled"] | None = Field(default=None, description="what is too long is refused")
    store: bool | None = Field(default=None, description=f"false: {_KEPT}")
    background: Literal[False] | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None
    previous_response_id: str | None = Field(default=None, description=f"null: {_KEPT}")
    prompt_cache_key: str | None = Field(default=None, description="beginnings that were seen are found by themselves, whatever the key")
    user: User = None

    @property
    def params(self) -> SamplingParams:
        options = given_options(self, sampling_names(_NAMED_OTHERWISE))
        if self.max_output_tokens is not None:
            options["max_tokens"] = self.max_output_tokens
        return SamplingParams(**options, **format_options(None if self.text is None else self.text.format))

    @property
    def tools_for_model(self) -> list[dict[str, Any]] | None:
        return None if self.tools is None else [tool.for_model() for tool in self.tools]

    @property
    def choice_for_model(self) -> str | dict[str, Any]:
        if isinstance(self.tool_choice, NamedChoice):
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        return self.tool_choice or "auto"


class ResponseObject(BaseModel):
    """An answer: its items under `output`."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    status: str
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: bool = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float
    truncation: str = "disabled"
    usage: dict[str, Any] | None


@router.post("/v1/responses", response_model=ResponseObject)
async def create_response(body: ResponseBody, service: ServiceOf) -> Response | ResponseObject:
    """Answers a conversation, with texts and calls of functions as items; with `stream` in events."""
    if body.store:
        raise ApiError(400, f"store is true, and {_KEPT}; leave it out", param="store")
    if body.previous_response_id is not None:
        raise ApiError(400, f"{_KEPT}; send the whole conversation as input", param="previous_response_id")
    answer = _Answer(body)
    service.check_size(prompt_size(None, answer.messages, answer.tools))
    if body.stream:
        return EventStream(answer.events(service), answer.params)
    async with service.using(body, body.model) as llm, answer.generating(llm, service) as handle:
        items = OutputItems()
        async for chunk in handle:
            for piece in chunk.events:
                list(items.add(piece))
        [completion] = await handle.aresult()
    list(items.end(_status(completion)))
    return answer.object(items.complete, completion)


class _Answer:
    """To one request."""

    def __init__(self, body: ResponseBody) -> None:
        self.body, self.params = body, body.params
        self.messages, self.tools = as_messages(body.input, body.instructions), body.tools_for_model
        self.id, self.created = f"resp_{uuid.uuid4().hex}", time.time()

    def generating(self, llm: LLM, service: Service) -> AbstractAsyncContextManager[Handle]:
        self.params = service.sampling(llm, self.body, self.params)  # of which the answer tells
        body = self.body
        asked = self.messages, self.params, self.tools, body.choice_for_model, body.parallel_tool_calls is not False
        return service.generating(llm, body, *asked)

    async def events(self, service: Service) -> AsyncGenerator[bytes, None]:
        """Numbered. What fails once the answer has begun is its last event."""
        number, items = 0, OutputItems()
        try:
            async with aclosing(self._events(items, service)) as events:
                async for data in events:
                    yield event({**data, "sequence_number": number}, data["type"])
                    number += 1
        except Exception as error:
            if not number:
                raise
            failed = self.object(items.broken, None).model_copy(update=_failure(api_error(error)))
            yield event({"type": "response.failed", "response": failed.model_dump(), "sequence_number": number}, "response.failed")

    async def _events(self, items: OutputItems, service: Service) -> AsyncGenerator[dict[str, Any], None]:
        async with service.using(self.body, self.body.model) as llm, self.generating(llm, service) as handle:
            for kind in ("created", "in_progress"):
                yield {"type": f"response.{kind}", "response": self.object([], None).model_dump()}
            async for chunk in handle:
                for piece in chunk.events:
                    for data in items.add(piece):
                        yield data
            [completion] = await handle.aresult()
        status = _status(completion)
        for data in items.end(status):
            yield data
        yield {"type": f"response.{status}", "response": self.object(items.items, completion).model_dump()}

    def object(self, output: list[dict[str, Any]], completion: Completion | None) -> ResponseObject:
        """The response so far; whole, once there is a completion."""
        body, status = self.body, "in_progress" if completion is None else _status(completion)
        return ResponseObject(
            id=self.id,
            created_at=self.created,
            status=status,
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=body.model,
            output=output,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            temperature=self.params.temperature,
            text={"format": {"type": "text"}} if body.text is None else body.text.model_dump(by_alias=True, exclude_none=True),
            tool_choice=body.tool_choice.model_dump() if isinstance(body.tool_choice, NamedChoice) else body.tool_choice or "auto",
            tools=[{**tool.model_dump(exclude_none=True), "strict": bool(tool.strict)} for tool in body.tools or ()],
            top_p=self.params.top_p,
            usage=None if completion is None else _usage(completion),
        )


def _failure(error: ApiError) -> dict[str, Any]:
    """What of a response says that it failed. The codes that OpenAI has are few: of a server's faults, one."""
    return {"status": "failed", "error": {"code": "server_error", "message": error.message}}


def _status(completion: Completion) -> Literal["completed", "incomplete"]:
    return "incomplete" if completion.finish_reason == "length" else "completed"


def _usage(completion: Completion) -> dict[str, Any]:
    used = completion.usage
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.total_tokens,
    }
