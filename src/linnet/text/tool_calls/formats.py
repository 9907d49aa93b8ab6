"""How models write tool calls: what opens them, and a reader for what follows. The table at the end holds every format.

A reader is a generator that is sent the characters after an opening, tells a `Sink` what they are, and returns, once the calls are
over, the characters that it took too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from linnet.text.tool_calls.gemma_reader import QUOTE, arguments
from linnet.text.tool_calls.json_reader import SPACE, MalformedError, Reading, after_space, key, rest_of_container, rest_of_string, value
from linnet.text.tool_calls.tools import MAX_NAME, NAME_SIGNS


class Sink(Protocol):
    """What a reader tells of a call. Each raises MalformedError where it cannot be."""

    def name(self, name: str) -> None: ...

    def arguments_begin(self) -> None:
        """The opening brace of the arguments has come; what is sent from here on is theirs, too."""

    def arguments_end(self) -> None: ...

    def arguments(self, text: str) -> None:
        """A piece of the arguments as JSON, where what the model writes is none; in place of the two above."""

    def end(self) -> None: ...


@dataclass(frozen=True)
class Format:
    """A way to write calls.

    opening: the text that calls begin with. markers: all texts that no answer shows; control tokens of these names must reach the
    parser as text. bare: an answer that is a call from its first brace on is one, if it names a tool that there is. signs: what a
    chat template of this format holds. read: the reader.
    """

    name: str
    opening: str
    markers: tuple[str, ...]
    signs: tuple[str, ...]
    read: Callable[[Sink], Reading[str]]
    bare: bool = False


def read_hermes(sink: Sink) -> Reading[str]:
    """`{"name": ..., "arguments": {...}}</tool_call>`, of Hermes 2 Pro and its like, Qwen 2.5 and Qwen 3."""
    yield from _call((yield from after_space()), sink)
    return (yield from _passed("</tool_call>"))


def read_llama(sink: Sink) -> Reading[str]:
    """`{"name": ..., "parameters": {...}}`, of Llama 3.1 and later; several come one after another, or with semicolons between."""
    c = yield from after_space()
    while True:
        yield from _call(c, sink)
        c = yield from after_space()
        if c == ";":
            c = yield from after_space()
        if c != "{":
            return c


def read_mistral(sink: Sink) -> Reading[str]:
    """`[{"name": ..., "arguments": {...}}, ...]`, up to Mistral's tokenizer v7; since v11 `name[ARGS]{...}`, with `[CALL_ID]id` before
    `[ARGS]` or not, every call with an opening of its own."""
    c = yield from after_space()
    if c != "[":
        yield from _named_call(c, sink)
        return ""
    c = yield from after_space()
    while True:
        yield from _call(c, sink)
        c = yield from after_space()
        if c in ("]", ""):
            return ""
        if c != ",":
            raise MalformedError
        c = yield from after_space()


def read_gemma(sink: Sink) -> Reading[str]:
    """`call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`, of Gemma 4; each call with an opening of its own."""
    c = yield from after_space()
    for expected in "call:":
        if c != expected:
            raise MalformedError
        c = yield
    name = ""
    while c in NAME_SIGNS and len(name) < MAX_NAME:
        name += c
        c = yield
    sink.name(name)
    c = c if c not in SPACE else (yield from after_space())
    if c != "{":
        raise MalformedError
    yield from arguments(c, sink.arguments)
    sink.end()
    return (yield from _passed("<tool_call|>"))


def _call(c: str, sink: Sink) -> Reading[None]:
    """An object with a name and arguments, which may be missing, in any order; what else it has is passed over."""
    if c != "{":
        raise MalformedError
    seen = set()
    c = yield from after_space()
    while True:
        member = yield from key(c)
        member = "arguments" if member == "parameters" else member
        if member in seen:
            raise MalformedError
        seen.add(member)
        c = yield from after_space()
        if member == "name":
            if c != '"':
                raise MalformedError
            sink.name((yield from rest_of_string()))
            c = yield from after_space()
        elif member == "arguments":
            yield from _arguments(c, sink)
            c = yield from after_space()
        else:
            c = yield from value(c)
        if c == "}":
            sink.end()
            return
        if c != ",":
            raise MalformedError
        c = yield from after_space()


def _arguments(c: str, sink: Sink) -> Reading[None]:
    if c != "{":
        raise MalformedError
    sink.arguments_begin()
    yield from rest_of_container(c)
    sink.arguments_end()


def _named_call(c: str, sink: Sink) -> Reading[None]:
    name = ""
    while c in NAME_SIGNS and len(name) < MAX_NAME:
        name += c
        c = yield
    sink.name(name)
    while c == "[":
        tag = yield from _until("]")
        if tag == "ARGS":
            c = yield from after_space()
            break
        if tag != "CALL_ID":
            raise MalformedError
        yield from _until("[", MAX_NAME)  # calls are given ids of ours: those of models need not differ from one another
        c = "["
    yield from _arguments(c if c not in SPACE else (yield from after_space()), sink)
    sink.end()


def _until(closing: str, most: int = 10) -> Reading[str]:
    text = ""
    while (c := (yield)) != closing:
        if c not in NAME_SIGNS or len(text) == most:
            raise MalformedError
        text += c
    return text


def _passed(marker: str) -> Reading[str]:
    """Passes over a marker, and white space before it, where it is there; the characters taken if it is not."""
    taken = yield from after_space()
    while taken and taken != marker and marker.startswith(taken):
        c = yield
        taken = taken + c if c else ""  # an answer that is cut off within the marker is none the worse
    return "" if taken == marker else taken


HERMES = Format("hermes", "<tool_call>", ("<tool_call>", "</tool_call>"), ("<tool_call>",), read_hermes)
LLAMA = Format("llama3", "<|python_tag|>", ("<|python_tag|>",), ("<|python_tag|>", "ipython<|end_header_id|>"), read_llama, bare=True)
MISTRAL = Format("mistral", "[TOOL_CALLS]", ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"), ("[TOOL_CALLS]",), read_mistral)
GEMMA = Format("gemma4", "<|tool_call>", ("<|tool_call>", "<tool_call|>", QUOTE), ("<|tool_call>",), read_gemma)

FORMATS = {format.name: format for format in (HERMES, LLAMA, MISTRAL, GEMMA)}

# Templates of formats that share a marker with one above, and are none of them: Qwen3-Coder's and GLM 4.5's calls are no JSON.
_OTHERS = ("<function=", "<arg_key>")


def format_of(template: str, tokens: Iterable[str]) -> Format | None:
    """The format that a chat template has calls written in; where it does not say, the one whose opening is among the model's
    control `tokens`. None for every other format."""
    if any(sign in template for sign in _OTHERS):
        return None
    by_template = [format for format in FORMATS.values() if any(sign in template for sign in format.signs)]
    found = by_template or [format for format in FORMATS.values() if format.opening in tokens]
    return found[0] if len(found) == 1 else None
