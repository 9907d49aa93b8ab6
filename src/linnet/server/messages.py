"""Conversations: from OpenAI's chat format to that of chat templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.errors import ChatTemplateError
from linnet.server.schema import MAX_MESSAGES, Body, CacheControl, Items


class TextPart(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl = None


class FunctionCall(Body):
    name: str
    arguments: str = Field(description="the arguments as JSON")


class ToolCall(Body):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """A message. To templates the role "developer" is "system", and several text parts are one text. Some fields can only be null: they
    are here because clients send an answer's message back with all of its fields."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Items[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str | None:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content

    def for_template(self, where: str) -> dict[str, Any]:
        """The message as transformers' templates take it. Raises ChatTemplateError if it is empty."""
        if self.text is None and not self.tool_calls:
            raise ChatTemplateError(f"{where} has no content; give it a text")
        record = self.model_dump(include={"role", "name", "tool_call_id", "tool_calls"}, exclude_none=True)
        return {**record, "role": "system" if self.role == "developer" else self.role, "content": self.text or ""}


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


def as_template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as transformers' templates take them."""
    return [message.for_template(f"messages[{index}]") for index, message in enumerate(messages)]


def prompt_size(messages: Sequence[ChatMessage] | None, *others: Any) -> int:
    """Bytes of a conversation and of everything else in its prompt, before it is tokenized."""
    parts: list[Any] = [other for other in others if other is not None]
    for message in messages or ():
        parts += [message.text or "", *(call.function.arguments for call in message.tool_calls or ())]
    texts = [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
