"""Tokens that stand for bytes, and BPE by merges for vocabularies that come as lists: of bytes (GPT-2 and after) or characters (Gemma 4).

Knows no file format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from linnet.errors import ModelFileError
from linnet.text.tokenizer.library import library_errors
from linnet.text.tokenizer.pretokenizers import PreTokenizer


def _byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_characters()
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}
_FALLBACK = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; a token outside the alphabet is its own UTF-8."""
    try:
        return bytes([BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode("utf-8", "surrogateescape")


def fallback_byte(token: str) -> bytes | None:
    """The byte that a token such as `<0x0A>` of a SentencePiece vocabulary stands for, or None."""
    match = _FALLBACK.fullmatch(token)
    return None if match is None else bytes.fromhex(match[1])


def byte_level_encoder(
    tokens: Sequence[str], merges: Sequence[str], excluded: Collection[str], pre: PreTokenizer, source: str
) -> Callable[[str], list[int]]:
    """A function from text to ids.

    tokens: id -> text in the byte alphabet; merges: "left right", best first; excluded: tokens that no text may become.
    Raises ModelFileError for merges that are malformed or name what the vocabulary does not hold.
    """
    return _encoder(_model(tokens, merges, excluded, source, ignore_merges=pre.ignore_merges), None, library_pre_tokenizer(pre), source)


def character_encoder(tokens: Sequence[str], merges: Sequence[str], excluded: Collection[str], source: str) -> Callable[[str], list[int]]:
    """The same of tokens that are text, in which `▁` stands for a space: within lines and runs of line ends. A character that no token
    holds becomes the tokens of its bytes."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    lines = pre_tokenizers.Split(Regex("[^\n]+|[\n]+"), "isolated")
    return _encoder(_model(tokens, merges, excluded, source, byte_fallback=True), normalizers.Replace(" ", "▁"), lines, source)


def _model(tokens: Sequence[str], merges: Sequence[str], excluded: Collection[str], source: str, **options: bool) -> Any:
    """BPE of the `tokenizers` library."""
    from tokenizers import models

    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    for token in excluded:
        vocabulary.pop(token, None)
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    unusable = f"{source}: the vocabulary or its merges cannot be used"
    try:
        with library_errors(unusable):
            return models.BPE(vocabulary, pairs, **options)
    except ModelFileError:  # look for the cause ourselves
        usable = {token: id for token, id in vocabulary.items() if is_utf8(token)}
        kept = _checked(pairs, vocabulary, excluded, source)
        with library_errors(unusable):
            return models.BPE(usable, kept, **options)


def _encoder(model: Any, normalizer: Any, words: Any, source: str) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = words
    if normalizer is not None:
        tokenizer.normalizer = normalizer

    def encode(text: str) -> list[int]:
        with library_errors(f"{source}: this tokenizer fails on the text"):
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def library_pre_tokenizer(pre: PreTokenizer) -> Any:
    """The pre-tokenizer as an object of the `tokenizers` library: first words by the patterns, then bytes."""
    from tokenizers import Regex, pre_tokenizers

    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def is_utf8(token: str) -> bool:
    """False for a token that is not valid UTF-8 (such bytes are read as lone surrogates): no text contains it."""
    return token.isascii() or not any("\ud800" <= character <= "\udfff" for character in token)


def _checked(pairs: list[tuple[str, str]], vocabulary: dict[str, int], excluded: Collection[str], source: str) -> list[tuple[str, str]]:
    """The merges without those that make or use an excluded token."""
    kept = []
    for rank, (left, right) in enumerate(pairs):
        parts = (left, right, left + right)
        if any(part in excluded for part in parts):
            continue
        missing = [part for part in parts if part not in vocabulary]
        if missing or not right:
            raise ModelFileError(f"{source}: merge {rank} ({left!r}, {right!r}) needs {missing or 'two parts'}, not in the vocabulary")
        kept.append((left, right))
    return kept
