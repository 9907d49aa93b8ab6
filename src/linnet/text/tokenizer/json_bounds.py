"""Limits of a tokenizer.json, checked before the `tokenizers` library builds it, since too much would end the process there."""

from __future__ import annotations

import base64
import json
from math import prod
from typing import Any

from linnet.errors import ModelFileError
from linnet.load.files import bound_json
from linnet.text.tokenizer.added_tokens import check_amount

MAX_GROWTH = 4096
"""The factor by which normalizer and pre-tokenizer may lengthen a text; known models stay below 100."""


def check_parts(data: bytes, source: str) -> None:
    """Raises ModelFileError for too many or too long added tokens, and for rules that lengthen texts too much.

    Other mistakes are left to the library, whose messages are better.
    """
    bound_json(data, source)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{source}: not a tokenizer.json that this version reads ({error})") from error
    if not isinstance(whole, dict):
        raise ModelFileError(f"{source}: a JSON object was expected, not a {type(whole).__name__}")
    tokens = whole.get("added_tokens")
    contents = [token.get("content") for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    check_amount([content for content in contents if isinstance(content, str)], source)
    growth = _growth(whole.get("normalizer")) * _growth(whole.get("pre_tokenizer"))
    if growth > MAX_GROWTH:
        raise ModelFileError(
            f"{source}: normalizer and pre_tokenizer can make a text more than {MAX_GROWTH} times as long; no model needs that"
        )


def _growth(step: Any) -> int:
    """The most bytes that one byte of text can become, by all steps one after the other."""
    if not isinstance(step, dict):
        return 1
    kind = step.get("type")
    if kind == "Sequence":
        steps = step.get("normalizers", step.get("pretokenizers"))
        return prod(map(_growth, steps)) if isinstance(steps, list) else 1
    if kind == "Replace":
        pattern = step.get("pattern")
        moves = isinstance(pattern, dict) and bool(pattern.get("String"))  # an expression may match between characters, too
        return max(1, _size(step.get("content"))) + (not moves)
    if kind == "Prepend":
        return 1 + _size(step.get("prepend"))
    if kind == "Precompiled":
        return _longest_replacement(step.get("precompiled_charsmap"))
    return 2 if kind == "ByteLevel" else 1


def _size(text: Any) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0


def _longest_replacement(table: Any) -> int:
    """Of a SentencePiece normalization table: 4 bytes of length, a trie, replacements, each ended by a zero byte."""
    try:
        data = base64.b64decode(table)
    except (TypeError, ValueError):
        return 1
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1, *map(len, texts.split(b"\0")))
