"""`Vocabulary`: what every kind of tokenizer file comes down to. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from linnet.load.end_tokens import end_texts
from linnet.text.tokenizer.added_tokens import AddedTokens

LARGEST_ID = 2**24
"""Far beyond any vocabulary. Tables (rows, bits) grow with the largest id, so a file must not be able to make them huge."""


def end_ids(ids: Mapping[str, int], *named: int | None) -> frozenset[int]:
    """The tokens that end an answer: those that a file names, and those whose texts are known to mean it."""
    return frozenset({id for id in named if id is not None} | {ids[text] for text in end_texts(ids)})


@dataclass(frozen=True)
class Vocabulary:
    """A loaded tokenizer.

    `kind` says in words how texts are cut.
    `encode(text, special, start)` gives ids without a beginning token; with `special` false it gives no id of
    `added.control_ids`; `start` false means that the text follows a control token. `token_bytes(id, first)` are the bytes
    that a token contributes to a decoded text, at its start or later; `id_to_token(id)` is its text as the file stores it,
    or None. `special_ids` are not shown when decoding (unless asked for); `eos_ids` end an answer. `beginning` and `ending` are the
    control tokens before and after a text that the model shall continue; `frame` are those around a text that is read whole, by an
    encoder or for an embedding, where the file says. `named_tokens` are the names that templates use
    (`bos_token` ...), `chat_templates` go by name, the usual one being "default". `pattern` cuts words where one alone does.
    """

    source: str
    kind: str
    size: int
    encode: Callable[[str, bool, bool], list[int]]
    token_bytes: Callable[[int, bool], bytes]
    id_to_token: Callable[[int], str | None]
    token_to_id: Callable[[str], int | None]
    added: AddedTokens
    special_ids: frozenset[int]
    bos_id: int | None = None
    eos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    beginning: tuple[int, ...] = ()
    ending: tuple[int, ...] = ()
    frame: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
