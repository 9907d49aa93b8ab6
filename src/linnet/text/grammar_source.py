"""Writes the constraints of requests as grammars for llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.text.json_schema import check_schema

WHITESPACE = r"[ ]|\r?\n[ \t]{0,20}"
"""The whitespace allowed, once, wherever JSON allows any: a space, or a line end and the next line's indent. A model that may write any
amount of it sometimes writes nothing else."""

_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""Lets the model choose the tokens that it writes a text with, even if only one text is possible."""

_SKIPPED = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|#[^\n]*|/(?:[^/\\\n]|\\.)+/')
_TOKEN = re.compile(r"<[^<>\s]*>?")
_ATTRIBUTE = re.compile(r"\b(stop|max_tokens|temperature)\s*=")


def grammar_of(name: str, value: Any) -> str:
    """The grammar for the value of an option of SamplingParams, or of tool_choice. Raises InvalidRequestError if it asks for too much."""
    if name == "json_schema":
        return _schema(json.loads(value))
    if name == "json_object":
        return _schema({"type": "object"})
    if name == "regex":
        return _regex(value)
    if name == "choice":
        return _regex("|".join(map(_literal, value)))
    if name == "tool_choice":  # a grammar of ours
        return str(value) + _OPTIONS
    assert name == "grammar"
    return _lark(value)


def _schema(schema: Mapping[str, Any]) -> str:
    return f"start: {schema_source(schema)}{_OPTIONS}"


def schema_source(schema: Mapping[str, Any]) -> str:
    """The expression for JSON that follows a schema, for a rule of a grammar. Raises InvalidRequestError if it cannot be enforced."""
    check_schema(schema)
    settings = {"whitespace_pattern": WHITESPACE}
    return "%json " + json.dumps({**schema, "x-guidance": settings}, ensure_ascii=False)


def _regex(pattern: str) -> str:
    from llguidance import LLMatcher

    lark: str = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"]
    return lark + _OPTIONS


def _literal(text: str) -> str:
    """A regular expression for one text."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _lark(grammar: str) -> str:
    rules = _SKIPPED.sub('""', grammar)
    if token := _TOKEN.search(rules):
        raise InvalidRequestError(f"grammar names the token {token[0]}; answers hold text, and a grammar can ask for no other tokens")
    if attribute := _ATTRIBUTE.search(rules):
        raise InvalidRequestError(f"grammar uses the attribute {attribute[1]}, which is not supported; suffix and lazy are")
    return grammar + _OPTIONS


def check_text(name: str, value: str | Sequence[str]) -> None:
    """Raises InvalidRequestError for lone surrogates, which UTF-8 cannot hold."""
    for text in [value] if isinstance(value, str) else value:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"{name} has a lone surrogate (U+{ord(text[error.start]):04X}), which no UTF-8 can hold") from None
