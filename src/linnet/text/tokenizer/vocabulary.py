"""`Vocabulary`: what every kind of tokenizer file comes down to. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from linnet.text.tokenizer.added_tokens import AddedTokens


@dataclass(frozen=True)
class Vocabulary:
    """A loaded tokenizer.

    `encode(text, special)` gives ids without a beginning token; with `special` false it gives no id of `added.control_ids`.
    `token_bytes(id)` are the bytes that a token contributes to a decoded text, `id_to_token(id)` its text as the file
    stores it, or None. `strip_first_space`: one space at the start of a decoded text is not part of it.
    `special_ids` are not shown when decoding (unless asked for); `eos_ids` end an answer. `named_tokens` are the
    names that templates use (`bos_token` ...), `chat_templates` go by name, the usual one being "default".
    """

    source: str
    size: int
    encode: Callable[[str, bool], list[int]]
    token_bytes: Callable[[int], bytes]
    id_to_token: Callable[[int], str | None]
    token_to_id: Callable[[str], int | None]
    added: AddedTokens
    special_ids: frozenset[int]
    bos_id: int | None = None
    eos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    add_bos: bool = False
    strip_first_space: bool = False
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)
