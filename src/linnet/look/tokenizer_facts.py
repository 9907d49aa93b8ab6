"""What there is to know of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linnet.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class NamedToken:
    """A token as its file writes it."""

    id: int
    text: str


@dataclass(frozen=True)
class TokenizerFacts:
    """kind: how it cuts texts. added: what every text gets, in front for the most part. ends: what ends an answer. special: what
    decoding does not show."""

    kind: str
    source: str
    vocab_size: int
    added: list[NamedToken]
    bos: NamedToken | None
    eos: NamedToken | None
    ends: list[NamedToken]
    special: list[NamedToken]


def tokenizer_facts(tokenizer: Tokenizer, eos_token_ids: Iterable[int]) -> TokenizerFacts:
    """eos_token_ids: those that the model's configuration names."""

    def named(ids: Iterable[int | None]) -> list[NamedToken]:
        return [NamedToken(id, tokenizer.id_to_token(id) or "") for id in ids if id is not None]

    return TokenizerFacts(
        kind=tokenizer.kind,
        source=tokenizer.source,
        vocab_size=tokenizer.vocab_size,
        added=named(tokenizer.encode("")),
        bos=next(iter(named([tokenizer.bos_id])), None),
        eos=next(iter(named([tokenizer.eos_id])), None),
        ends=named(sorted({*eos_token_ids, *tokenizer.eos_ids})),
        special=named(sorted(tokenizer.special_ids)),
    )
