"""Chat templates: Jinja2 in its immutable sandbox, with the names that templates of published models expect.

Names and settings follow transformers' chat templates, so that a template renders alike. Knows no tokenizer.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from linnet.errors import ChatTemplateError, InvalidRequestError

if TYPE_CHECKING:
    from jinja2 import Template

_ROLE = re.compile(r"[A-Za-z][\w -]*")


def choose(templates: Mapping[str, str], wanted: str | None, with_tools: bool, source: str) -> str:
    """The source of the template to use. `wanted` is one of the names or a template itself; there is no default of ours."""
    if wanted is not None:
        return templates.get(wanted, wanted)
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
    """A copy of exact built-in types: templates shall meet no object with methods of its own."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequestError(f"{where} has a lone surrogate, which no UTF-8 can hold; remove it")
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise InvalidRequestError(f"{where} is a {type(value).__name__}; only JSON's types can go into a chat template")


class Disguise:
    """Hides, in everything but the assistant's turns, the signs that control tokens are written with (`<|>` and the like).

    Each sign becomes a number that nobody can guess, so that a template can trim, join and quote the contents as ever, and
    no control token in what it renders can have come from them.
    """

    def __init__(self, signs: Iterable[str]) -> None:
        self._masks: dict[str, str | int | None] = {sign: str(10**40 + secrets.randbelow(9 * 10**40)) for sign in signs}
        self.used = False

    def put_on(self, conversation: Conversation) -> Conversation:
        """A copy of the conversation in disguise; `used` tells whether anything had to be hidden."""
        hidden = Conversation.__new__(Conversation)
        hidden.messages = [message if message["role"] == "assistant" else self._hide_message(message) for message in conversation.messages]
        hidden.tools = self._hide(conversation.tools)
        hidden.documents = self._hide(conversation.documents)
        return hidden

    def take_off(self, text: str) -> str:
        for sign, mask in self._masks.items():
            text = text.replace(str(mask), sign)
        return text

    def _hide_message(self, message: dict[str, Any]) -> dict[str, Any]:
        return {key: value if key == "role" else self._hide(value) for key, value in message.items()}

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            hidden = value.translate(str.maketrans(self._masks))
            self.used = self.used or hidden != value
            return hidden
        if isinstance(value, dict):
            return {self._hide(key): self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, list) else value


def render(template: str, conversation: Conversation, add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
    """What the template makes of the conversation. Raises ChatTemplateError with the template's own reason."""
    import jinja2

    try:
        return _compiled(template).render(
            {
                **variables,
                "messages": conversation.messages,
                "tools": conversation.tools,
                "documents": conversation.documents,
                "add_generation_prompt": add_generation_prompt,
            }
        )
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(f"the chat template is malformed at line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise ChatTemplateError(f"the chat template refuses these messages: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ChatTemplateError(f"the chat template fails on these messages ({reason}); check them or give another template") from error


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what a model is trained on; for rendering it is its body."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's interface

        def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], cache_size=0
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML; models are trained on plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
