"""Tokenizers that only transformers reads, as ours: by way of a tokenizer.json where there can be one, else as they are."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from linnet.backends.transformers.loading import import_transformers, loaded, logger, quiet
from linnet.errors import LinnetError
from linnet.text.tokenizer import Tokenizer, tokenizer_file
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens
from linnet.text.tokenizer.vocabulary import Vocabulary

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def read_tokenizer(folder: Path, trusted: bool) -> Tokenizer | None:
    """The folder's tokenizer; None, which the log says, where neither Linnet nor transformers reads one."""
    if tokenizer_file(folder) is not None:
        return Tokenizer(folder)
    auto: Any = import_transformers().AutoTokenizer
    try:
        with quiet(), tempfile.TemporaryDirectory() as made:
            found = loaded(lambda: auto.from_pretrained(folder, trust_remote_code=trusted, local_files_only=True), folder)
            if not found.is_fast:
                return Tokenizer.from_vocabulary(_vocabulary(found, folder))
            found.save_pretrained(made)
            return Tokenizer(made)
    except LinnetError as error:
        logger.warning("%s has no tokenizer that can be read: prompts are token ids, answers have no text (%s)", folder, error)
        return None


def _vocabulary(found: Any, folder: Path) -> Vocabulary:
    """A tokenizer of transformers' that is written in Python: Marian's, ByT5's and their like."""
    contents = {id: token.content for id, token in found.added_tokens_decoder.items()}
    special = frozenset(found.all_special_ids)
    added = [AddedToken(id, content, id in special) for id, content in contents.items()]
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    unknown = found.convert_tokens_to_ids(found.unk_token) if found.unk_token else None

    def token_to_id(token: str) -> int | None:
        id = found.convert_tokens_to_ids(token)
        return id if isinstance(id, int) and (id != unknown or token == found.unk_token) else None

    def encode(text: str, special: bool, start: bool) -> list[int]:
        ids: list[int] = found(text, add_special_tokens=False, split_special_tokens=not special).input_ids
        return ids

    return Vocabulary(
        source=str(folder),
        kind=f"{type(found).__name__} (transformers)",
        size=len(found),
        encode=encode,
        token_bytes=_token_bytes(found, contents),
        id_to_token=found.convert_ids_to_tokens,
        token_to_id=token_to_id,
        added=AddedTokens(added, str(folder)),
        special_ids=special,
        bos_id=found.bos_token_id,
        eos_id=found.eos_token_id,
        eos_ids=frozenset(() if found.eos_token_id is None else (found.eos_token_id,)),
        frame=_frame(found),
        named_tokens={name: text for name in names if (text := getattr(found, name, None)) is not None},
        chat_templates={"default": found.chat_template} if isinstance(found.chat_template, str) else {},
    )


def _frame(found: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What it puts before and after a text."""
    whole, bare = found("a").input_ids, found("a", add_special_tokens=False).input_ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    return None


def _token_bytes(found: Any, added: dict[int, str]) -> Callable[[int, bool], bytes]:
    """The bytes of a token: what a text gains by it, since only whole texts are decoded there; bytes that are tokens are themselves."""
    characters_are_bytes = type(found).__name__ == "ByT5Tokenizer"
    anchor = found.convert_ids_to_tokens(found("a", add_special_tokens=False).input_ids[-1])

    def text_of(*tokens: str) -> str:
        return str(found.convert_tokens_to_string(list(tokens)))

    left = text_of(anchor)
    right = text_of(anchor, anchor)[len(left) :]  # what an anchor adds: a token stands before one, since spaces at the end are cut off

    @lru_cache(maxsize=2**16)
    def token_bytes(id: int, first: bool) -> bytes:
        if id in added:
            return added[id].encode()
        token: str = found.convert_ids_to_tokens(id)
        if characters_are_bytes:
            return token.encode("latin-1", "ignore")
        if (byte := _BYTE.fullmatch(token)) is not None:
            return bytes([int(byte[1], 16)])
        text = text_of(token, anchor) if first else text_of(anchor, token, anchor)[len(left) :]
        return text.removesuffix(right).encode()

    return token_bytes
