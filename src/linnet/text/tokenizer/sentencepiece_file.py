"""SentencePiece `.model` files, alone or in a folder with its config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from linnet.errors import ModelFileError
from linnet.text.tokenizer import byte_level
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.config import TokenizerConfig, read_config
from linnet.text.tokenizer.conventions import convention_of
from linnet.text.tokenizer.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_model
from linnet.text.tokenizer.vocabulary import LARGEST_ID, Vocabulary, end_ids


def load_sentencepiece_file(path: Path, data: bytes) -> Vocabulary:
    """The vocabulary of the file at `path`, whose bytes are `data`. Raises ModelFileError where it is malformed."""
    return _SentencePieceVocabulary(path, data).build()


class _SentencePieceVocabulary:
    """The pieces of a model, and what the config beside it adds to them or calls them."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.source = str(path)
        self.config: TokenizerConfig = read_config(path.parent)
        self.convention = convention_of(path, self.config)
        model = read_model(data, self.source)
        self.tokens = {id: piece.decode("utf-8", "surrogateescape") for id, piece in enumerate(model.pieces)}
        self.types = dict(enumerate(model.types))
        self.piece_count = len(model.pieces)
        for token in self.config.added:
            if token.id > LARGEST_ID:
                raise ModelFileError(f"{self.config.path}: gives {token.content!r} the id {token.id}; ids up to {LARGEST_ID} are read")
            if self.tokens.get(token.id) != token.content:
                self.tokens[token.id] = token.content
                self.types[token.id] = CONTROL if token.flags.get("special") else USER_DEFINED
        for id, content in enumerate(self.convention.appended, self.piece_count):
            self.tokens[id], self.types[id] = content, CONTROL
        self.ids = {token: id for id, token in reversed(self.tokens.items())}
        self.added = AddedTokens(self.added_tokens(), self.source)
        control = self.added.control_ids
        types = [CONTROL if id in control and kind != UNKNOWN else kind for id, kind in enumerate(model.types)]
        self.model = replace(model, types=types)
        self.encode_start = self.model.encoder(self.source)

    @cached_property
    def encode_later(self) -> Callable[[str], list[int]]:
        """For texts after a control token, which get no space in front."""
        return self.model.without_prefix().encoder(self.source) if self.model.adds_prefix else self.encode_start

    def added_tokens(self) -> Iterator[AddedToken]:
        listed = {token.id: token.flags for token in self.config.added}
        for id, content in self.tokens.items():
            kind, flags = self.types[id], listed.get(id, {})
            control = kind in (CONTROL, UNKNOWN) or content in self.config.special
            if content in self.convention.spelled or (not control and kind != USER_DEFINED):
                continue
            if kind == USER_DEFINED:
                control = control or is_marker(content)
                if not control and id < self.piece_count and id not in listed:
                    continue  # the library matches it by itself
            word = flags.get("single_word", False) or (content in self.convention.appended and content.isalpha())  # no "eop" in "people"
            yield AddedToken(id, content, control, word, flags.get("lstrip", False), flags.get("rstrip", False))

    def encode(self, text: str, special: bool, start: bool) -> list[int]:
        ids: list[int] = []
        for id, piece in self.added.split(text, special):
            if id is None:
                ids += (self.encode_start if start or self.convention.apart else self.encode_later)(self.convention.spell(piece))
            else:
                ids.append(id)
            start = False
        return ids

    def token_bytes(self, id: int, first: bool) -> bytes:
        token, kind = self.tokens.get(id, ""), self.types.get(id, UNUSED)
        if kind == BYTE:
            return byte_level.fallback_byte(token) or b""
        if kind not in (NORMAL, UNUSED, USER_DEFINED):
            return token.encode("utf-8", "surrogateescape")
        if token in self.convention.spelled:
            return self.convention.spelled[token].encode()
        data = token.replace("▁", " ").encode("utf-8", "surrogateescape")
        return data.removeprefix(b" ") if first and self.model.adds_prefix else data

    def named_ids(self, tokens: Iterable[str]) -> tuple[int, ...]:
        if missing := [token for token in tokens if token not in self.ids]:
            raise ModelFileError(f"{self.source}: the vocabulary has no {missing[0]}, which texts of this model need; download it again")
        return tuple(self.ids[token] for token in tokens)

    def build(self) -> Vocabulary:
        named = {**self.model.named_tokens(), **self.config.named}
        bos_id, eos_id = (self.ids.get(named.get(name, "")) for name in ("bos_token", "eos_token"))
        first = () if bos_id is None or self.config.flag("add_bos_token") is False else (bos_id,)
        convention = self.convention
        special = {id for id, kind in self.types.items() if kind in (CONTROL, UNKNOWN)}
        return Vocabulary(
            source=self.source,
            kind=f"SentencePiece {self.model.kind} ({Path(self.source).name})",
            size=max(self.tokens) + 1,
            encode=self.encode,
            token_bytes=self.token_bytes,
            id_to_token=self.tokens.get,
            token_to_id=self.ids.get,
            added=self.added,
            special_ids=frozenset(special | {self.ids[text] for text in self.config.special if text in self.ids}),
            bos_id=bos_id,
            eos_id=eos_id,
            eos_ids=end_ids(self.ids, eos_id, *(self.ids[text] for text in convention.ends)),
            beginning=self.named_ids(convention.beginning) if convention.beginning or convention.ending else first,
            ending=self.named_ids(convention.ending),
            named_tokens=named,
            chat_templates=self.config.chat_templates,
        )
