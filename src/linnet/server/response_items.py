"""Items of the Responses API: read as messages, and written for an answer, whole or as events."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.server.schema import MAX_MESSAGES, Body, Items
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallBroken, CallEnded, Event, TextDelta

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Body):
    """A text. That of an answer, sent back, has empty lists of annotations and log-probabilities."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[InputText]
    id: str | None = None
    status: Status | None = None
    phase: None = None


class InputCall(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="the arguments as JSON")
    id: str | None = None
    status: Status | None = None


class InputCallOutput(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Items[InputText]
    id: str | None = None
    status: Status | None = None


InputItems = Annotated[list[InputMessage | InputCall | InputCallOutput], Field(min_length=1, max_length=MAX_MESSAGES)]


def as_messages(given: str | Sequence[InputMessage | InputCall | InputCallOutput], instructions: str | None) -> list[dict[str, Any]]:
    """A conversation as chat templates take it. Consecutive calls become one message, together with the text before them."""
    messages: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given:
        if isinstance(item, InputMessage):
            messages.append({"role": "system" if item.role == "developer" else item.role, "content": _text(item.content)})
        elif isinstance(item, InputCallOutput):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        else:
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            messages[-1].setdefault("tool_calls", []).append(call)
    return messages


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class OutputItems:
    """Builds the items of an answer from its pieces. A call that is cut off stays as "incomplete", and its text becomes a message."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    @property
    def complete(self) -> list[dict[str, Any]]:
        """The items without calls that were cut off."""
        return [item for item in self.items if item["type"] == "message" or item["status"] == "completed"]

    @property
    def broken(self) -> list[dict[str, Any]]:
        """The items as they are when the answer is cut off."""
        return [{**item, "status": "incomplete"} if item["status"] == "in_progress" else item for item in self.items]

    def add(self, piece: Event) -> Iterator[dict[str, Any]]:
        """The events for a piece, not yet numbered."""
        if isinstance(piece, TextDelta):
            if not self.items or self.items[-1]["status"] != "in_progress":
                yield from self._begin_message()
            self.items[-1]["content"][0]["text"] += piece.text
            yield {"type": "response.output_text.delta", **self._place(), "content_index": 0, "delta": piece.text, "logprobs": []}
        elif isinstance(piece, CallBegun):
            yield from self.end()
            call = {"type": "function_call", "id": _new_id("fc"), "call_id": piece.id, "name": piece.name, "arguments": ""}
            yield from self._begin({**call, "status": "in_progress"})
        elif isinstance(piece, ArgumentsDelta):
            self.items[-1]["arguments"] += piece.text
            yield {"type": "response.function_call_arguments.delta", **self._place(), "delta": piece.text}
        elif isinstance(piece, CallEnded):
            item = self.items[-1]
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._place(), **done}
            yield from self._end("completed")
        elif isinstance(piece, CallBroken):
            yield from self._end("incomplete")

    def end(self, status: Status = "completed") -> Iterator[dict[str, Any]]:
        """The events that end the open message, if there is one."""
        if not self.items or self.items[-1]["status"] != "in_progress":
            return
        part = self.items[-1]["content"][0]
        yield {"type": "response.output_text.done", **self._place(), "content_index": 0, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **self._place(), "content_index": 0, "part": dict(part)}
        yield from self._end(status)

    def _begin_message(self) -> Iterator[dict[str, Any]]:
        yield from self._begin({"type": "message", "id": _new_id("msg"), "role": "assistant", "status": "in_progress", "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.items[-1]["content"].append(part)
        yield {"type": "response.content_part.added", **self._place(), "content_index": 0, "part": dict(part)}

    def _begin(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.items.append(item)
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": item | {}}

    def _end(self, status: Status) -> Iterator[dict[str, Any]]:
        self.items[-1]["status"] = status
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": self.items[-1]}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
