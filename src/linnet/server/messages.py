"""Conversations as OpenAI's chat format has them, and as chat templates take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.errors import ChatTemplateError
from linnet.server.schema import Body

MAX_MESSAGES = 4096


class TextPart(Body):
    type: Literal["text"]
    text: str


class FunctionCall(Body):
    name: str
    arguments: str = Field(description="the arguments as JSON")


class ToolCall(Body):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """A message. A developer is a system to the template; of several text parts it gets one text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str | None:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


def as_template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as transformers' templates take them. Raises ChatTemplateError for a message without what its role needs."""
    return [_as_template_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _as_template_message(message: ChatMessage, where: str) -> dict[str, Any]:
    if message.text is None and not message.tool_calls:
        raise ChatTemplateError(f"{where} has no content; give it a text")
    record: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text or ""}
    if message.name is not None:
        record["name"] = message.name
    return record
