"""Conversations for chat templates: checked, copied, and masked so that no content turns into a control token. Knows no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from linnet.errors import ChatTemplateError, InvalidRequestError

_ESCAPE = re.compile(r"\\u([eEfF][0-9a-fA-F]{3})")
_ROLE = re.compile(r"[A-Za-z][\w -]*")
_TOOL_ROLE = re.compile(r"""["']tool["']""")


def choose(templates: Mapping[str, str], wanted: str | Mapping[str, str] | None, with_tools: bool, source: str) -> str:
    """The source of the template to use: the one named "tool_use" if there are tools and there is one, else "default".

    wanted: a name, a template itself, or templates by name that replace the model's. A model without a template gets none: Linnet has no
    default of its own.
    """
    if isinstance(wanted, str):
        return templates.get(wanted, wanted)
    if wanted is not None:
        templates, source = wanted, "what was given as chat_template"
    if with_tools and "tool_use" in templates:
        return templates["tool_use"]
    if "default" not in templates:
        names = f" (it has only {', '.join(sorted(templates))}: pass one as chat_template)" if templates else ""
        raise ChatTemplateError(
            f"{source} has no chat template{names}; give one with --chat-template FILE (chat_template= in Python), or complete raw text"
        )
    return templates["default"]


class Conversation:
    """Messages, tools and documents, checked and copied into plain lists, dicts, strings and numbers.

    A message has a `role` and, unless it only calls tools, a `content`: text, or a list of {"type": "text", "text": ...}
    parts, which are joined. Raises InvalidRequestError that says which message is wrong and why.
    """

    def __init__(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
            raise InvalidRequestError("messages must be a list of at least one {'role': ..., 'content': ...}")
        try:
            self.messages = [_checked_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
            self.tools = _checked_entries(tools, "tools")
            self.documents = _checked_entries(documents, "documents")
        except RecursionError:
            raise InvalidRequestError("messages, tools or documents nest too deeply (or hold themselves)") from None


def _checked_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"{where} must be a mapping with 'role' and 'content', not {type(message).__name__}")
    plain: dict[str, Any] = _plain(message, where)
    role = plain.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InvalidRequestError(f"{where}: role must be a word such as 'user', 'assistant', 'system' or 'tool', not {role!r}")
    if "content" not in plain and not plain.get("tool_calls"):
        raise InvalidRequestError(f"{where} ({role}) has no content")
    content = plain.get("content")
    if isinstance(content, list):
        plain["content"] = "".join(_part_text(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    elif not (isinstance(content, str) or (content is None and role == "assistant")):
        raise InvalidRequestError(f"{where}: content must be text or a list of text parts, not {type(content).__name__}")
    return plain


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise InvalidRequestError(f"{where}: only parts {{'type': 'text', 'text': ...}} are understood, not {kind!r}")


def _checked_entries(entries: Any, name: str) -> list[Any] | None:
    if entries is None:
        return None
    if not isinstance(entries, Sequence) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidRequestError(f"{name} must be a list of mappings (JSON objects)")
    return [_plain(entry, f"{name}[{i}]") for i, entry in enumerate(entries)]


def _plain(value: Any, where: str) -> Any:
    """A copy made of exactly the built-in types, so that a template meets no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequestError(f"{where} has a lone surrogate, which no UTF-8 can hold; remove it")
        return str.__str__(value)
    if isinstance(value, Mapping):
        if any(isinstance(key, tuple) for key in value):
            raise InvalidRequestError(f"{where} has a key that is a tuple; only JSON's types can go into a chat template")
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise InvalidRequestError(f"{where} is a {type(value).__name__}; only JSON's types can go into a chat template")


class Disguise:
    """Masks the characters that control tokens are written with (`<`, `|` and the like), so that no text in a conversation can forge one.
    In the assistant's turns it masks only tokens that no answer shows, since a user can make a model spell one out.

    Each such character becomes one private-use character that occurs nowhere in the request. A template can still trim, slice, join and
    quote the contents, and a control token in its output cannot have come from masked text. split: cuts an assistant's text into pieces
    and says whether to mask each. A template may join unmasked characters into a control token: the caller has to check for that.
    """

    def __init__(
        self,
        signs: Iterable[str],
        conversation: Conversation,
        variables: Mapping[str, Any],
        template: str,
        split: Callable[[str], Iterable[tuple[str, bool]]],
    ) -> None:
        taken = set(template)
        _collect([conversation.messages, conversation.tools, conversation.documents, variables], taken)
        free = [character for character in map(chr, range(0xE000, 0xF900)) if character not in taken]
        self._masks = dict(zip(sorted(signs), free, strict=False))
        if len(self._masks) < len(set(signs)):
            raise InvalidRequestError("the messages use all of Unicode's private-use characters; leave some free")
        self._table = str.maketrans(self._masks)
        self._split = split
        self.used = False
        self.messages = [self._hide_message(message) for message in conversation.messages]
        self.tools = self._hide(conversation.tools)
        self.documents = self._hide(conversation.documents)
        self.variables = self._hide(variables)

    def take_off(self, text: str) -> str:
        for sign, mask in self._masks.items():
            text = text.replace(mask, sign).replace(f"\\u{ord(mask):04x}", sign)  # the latter is what JSON in ASCII makes of it
        return text

    def _hide_message(self, message: dict[str, Any]) -> dict[str, Any]:
        own = message["role"] == "assistant"
        return {key: value if key == "role" else self._hide(value, own) for key, value in message.items()}

    def _hide(self, value: Any, own: bool = False) -> Any:
        """own: the assistant's."""
        if isinstance(value, str):
            hidden = value.translate(self._table)
            if own and hidden != value:
                hidden = "".join(piece.translate(self._table) if hide else piece for piece, hide in self._split(value))
            self.used = self.used or hidden != value
            return hidden
        if isinstance(value, dict):
            return {self._hide(key, own): self._hide(item, own) for key, item in value.items()}
        return [self._hide(item, own) for item in value] if isinstance(value, list) else value


def _collect(value: Any, characters: set[str]) -> None:
    """Adds every character of every text inside, and the private-use characters that `\\uXXXX` escapes stand for."""
    if isinstance(value, str):
        characters.update(value)
        characters.update(chr(int(digits, 16)) for digits in _ESCAPE.findall(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(key, characters)
            _collect(item, characters)
    elif isinstance(value, list):
        for item in value:
            _collect(item, characters)


def render(
    template: str,
    conversation: Conversation | Disguise,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
    where: str = "the chat template",
) -> str:
    """The conversation as text, by the template, which messages call `where`. Raises ChatTemplateError with the reason if the template
    refuses it, or silently leaves out tools, calls or results; HostileTemplateError if the template itself is at fault."""
    from linnet.text import template_renderer

    if conversation.tools and not re.search(r"\btools\b", template):
        raise ChatTemplateError(f"{where} has no place for tools; leave them out, or take a model or a template that knows them")

    standard = {
        "messages": conversation.messages,
        "tools": conversation.tools,
        "documents": conversation.documents,
        "add_generation_prompt": add_generation_prompt,
    }
    text = template_renderer.render(template, {**variables, **standard}, where)
    for index, message in enumerate(conversation.messages):
        if message.get("tool_calls") and "tool_calls" not in template:
            raise ChatTemplateError(f"{where} has no place for the tool_calls of messages[{index}]; put them in its content")
        if message["role"] == "tool" and not _TOOL_ROLE.search(template) and message["content"].strip() not in text:
            raise ChatTemplateError(f"{where} has no place for messages[{index}], a tool's; give its content in a user's message")
    return text


def plain_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy made of exactly the built-in types. Raises InvalidRequestError that names a value that JSON does not have."""
    try:
        return {name: _plain(value, name) for name, value in variables.items()}
    except RecursionError:
        raise InvalidRequestError("a variable of the chat template nests too deeply (or holds itself)") from None
