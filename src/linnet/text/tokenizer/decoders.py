"""The "decoder" section of a tokenizer.json, as bytes per token: what streaming, stop strings and candidates need.

Bytes that are no UTF-8 become U+FFFD when a whole text is decoded, by the rule that Python and the WHATWG share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linnet.errors import UnsupportedModelError
from linnet.text.tokenizer import byte_level


@dataclass(frozen=True)
class Decoder:
    """`token_bytes` for one token; `strip_first_space`: a space at the start of the whole is not part of the text."""

    token_bytes: Callable[[str], bytes]
    strip_first_space: bool = False


def read_decoder(section: Any, source: str) -> Decoder:
    """Raises UnsupportedModelError for a step that this version does not know, by name."""
    if section is None:  # tokens are words
        return Decoder(lambda token: b" " + token.encode(), strip_first_space=True)
    steps = section["decoders"] if section.get("type") == "Sequence" else [section]
    replacements: list[tuple[str, str]] = []
    byte_fallback = byte_alphabet = strip = False
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            byte_alphabet = True
        elif kind == "Metaspace":
            replacements.append((step.get("replacement", "▁"), " "))
            strip = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True)
        elif kind == "Replace" and isinstance(step["pattern"].get("String"), str):
            replacements.append((step["pattern"]["String"], step["content"]))
        elif kind == "ByteFallback":
            byte_fallback = True
        elif kind == "Strip" and step["content"] == " " and step["start"] <= 1 and step["stop"] == 0:
            strip = step["start"] == 1
        elif kind != "Fuse":
            raise UnsupportedModelError(f"{source}: the decoder step {_described(step)} is not supported by this version")

    def token_bytes(token: str) -> bytes:
        byte = byte_level.fallback_byte(token) if byte_fallback else None
        if byte is not None:
            return byte
        for old, new in replacements:
            token = token.replace(old, new)
        return byte_level.token_bytes(token) if byte_alphabet else token.encode()

    return Decoder(token_bytes, strip)


def _described(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in step.items())
