"""Content blocks of Anthropic's Messages API: read as messages, and written for an answer, whole or as events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.server.schema import MAX_MESSAGES, Body, CacheControl, Items
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallBroken, CallEnded, Event, TextDelta
from linnet.text.tool_calls.tools import read_arguments


class TextBlock(Body):
    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(max_length=0)] | None = None
    cache_control: CacheControl = None


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    cache_control: CacheControl = None


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Items[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class InputMessage(Body):
    role: Literal["user", "assistant"]
    content: str | Items[Block]


InputMessages = Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


def as_messages(messages: Sequence[InputMessage], system: str | Items[TextBlock] | None) -> list[dict[str, Any]]:
    """A conversation as chat templates take it. Tool results become messages of their own, before the text that came with them."""
    found: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": text_of(system)}]
    for message in messages:
        blocks = [] if isinstance(message.content, str) else message.content
        text = message.content if isinstance(message.content, str) else text_of([b for b in blocks if isinstance(b, TextBlock)])
        calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
        results = [_result(block) for block in blocks if isinstance(block, ToolResultBlock)]
        found += results
        if calls:
            found.append({"role": message.role, "content": text, "tool_calls": calls})
        elif text or not results:
            found.append({"role": message.role, "content": text})
    return found


def text_of(content: str | Sequence[TextBlock] | None) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content or ())


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = text_of(block.content)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": f"Error: {text}" if block.is_error else text}


class OutputBlocks:
    """Builds the blocks of an answer from its pieces. The input of a call stays text until it is complete."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Any]] = []
        self._open = False
        self._broken: set[int] = set()

    @property
    def complete(self) -> list[dict[str, Any]]:
        """The blocks without calls that were cut off, and with inputs as objects."""
        whole = [block for index, block in enumerate(self._blocks) if index not in self._broken]
        return [{**block, "input": read_arguments(block["input"])} if block["type"] == "tool_use" else block for block in whole]

    def add(self, piece: Event) -> Iterator[dict[str, Any]]:
        """The events for a piece."""
        if isinstance(piece, TextDelta):
            if not self._open:
                yield self._begin({"type": "text", "text": ""}, {})
            self._blocks[-1]["text"] += piece.text
            yield self._delta({"type": "text_delta", "text": piece.text})
        elif isinstance(piece, CallBegun):
            yield from self.end()
            yield self._begin({"type": "tool_use", "id": piece.id, "name": piece.name, "input": ""}, {"input": {}})
        elif isinstance(piece, ArgumentsDelta):
            self._blocks[-1]["input"] += piece.text
            yield self._delta({"type": "input_json_delta", "partial_json": piece.text})
        elif isinstance(piece, (CallEnded, CallBroken)):
            if isinstance(piece, CallBroken):
                self._broken.add(len(self._blocks) - 1)
            yield from self.end()

    def end(self) -> Iterator[dict[str, Any]]:
        """The events that end the open block, if there is one."""
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _begin(self, block: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
        self._blocks.append(block)
        self._open = True
        return {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": {**block, **shown}}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}
