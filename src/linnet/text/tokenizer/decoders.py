"""The decoder of a tokenizer.json as bytes per token, which is what streaming, stop strings and candidates need.

Text steps are run by `tokenizers` itself, on a token at the start of a text or after another one. Steps that make bytes are
ours, as a token may be part of a character. Bytes that are no UTF-8 become U+FFFD when a whole text is decoded, by the
rule that Python and the WHATWG share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linnet.errors import UnsupportedModelError
from linnet.text.tokenizer import byte_level

# Steps that see one token at a time, whatever its neighbours are (WordPiece and Metaspace: but for being the first).
_PER_TOKEN = ("Replace", "Strip", "ByteFallback", "WordPiece", "Metaspace", "Fuse")
_ANCHOR = "a"  # a token that every step leaves alone, to stand before another


@dataclass(frozen=True)
class Decoder:
    """token_bytes(token, first): the bytes of a token; first: whether it starts the text. byte_level: tokens use GPT-2's byte alphabet."""

    token_bytes: Callable[[str, bool], bytes]
    byte_level: bool = False


def read_decoder(decoder: Any, source: str) -> Decoder:
    """What `decoder`, that of a `tokenizers.Tokenizer` (or None), makes of single tokens.

    Raises UnsupportedModelError for a step that looks at several tokens together, by name.
    """
    if decoder is None:  # tokens are words
        return Decoder(lambda token, first: token.encode() if first else b" " + token.encode())
    steps = list(_steps(json.loads(decoder.__getstate__())))
    kinds = [step["type"] for step in steps]
    if set(kinds) <= {"ByteLevel", "Fuse"}:
        return Decoder(lambda token, first: byte_level.token_bytes(token), byte_level=True)
    fused = False
    for step in steps:
        if step["type"] not in _PER_TOKEN or (fused and not _alike_when_fused(step)):
            raise UnsupportedModelError(f"{source}: the decoder step {_described(step)} is not supported by this version")
        fused = fused or step["type"] == "Fuse"
    anchor = decoder.decode([_ANCHOR])
    if anchor != _ANCHOR:
        raise UnsupportedModelError(f"{source}: the decoder turns {_ANCHOR!r} into {anchor!r}, which this version does not follow")
    byte_fallback = "ByteFallback" in kinds

    def token_bytes(token: str, first: bool) -> bytes:
        byte = byte_level.fallback_byte(token) if byte_fallback else None
        if byte is not None and byte >= b"\x80":
            return byte
        text: str = decoder.decode([token]) if first else decoder.decode([_ANCHOR, token])[len(_ANCHOR) :]
        return text.encode()

    return Decoder(token_bytes)


def _steps(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if section["type"] != "Sequence":
        return [section]
    return [step for part in section["decoders"] for step in _steps(part)]


def _alike_when_fused(step: Mapping[str, Any]) -> bool:
    """Whether applying a step to the whole text gives the same as applying it to each token (and to the first one at its start)."""
    if step["type"] == "Strip":
        return bool(step["start"] <= 1 and step["stop"] == 0)
    pattern = step.get("pattern", {}).get("String")
    return step["type"] == "Fuse" or (step["type"] == "Replace" and isinstance(pattern, str) and len(pattern) == 1)


def _described(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in step.items())
