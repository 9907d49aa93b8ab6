"""The tokenizer inside a GGUF file, from its metadata: byte-level BPE, Gemma 4's BPE, SentencePiece (BPE and unigram) and
WordPiece.

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.text.tokenizer import byte_level
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.pretokenizers import pre_tokenizer
from linnet.text.tokenizer.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    normalizer_message,
    trainer_message,
)
from linnet.text.tokenizer.vocabulary import Vocabulary, end_ids
from linnet.text.tokenizer.word_piece import word_piece_encoder

log = logging.getLogger(__name__)

_Encode: TypeAlias = Callable[[str, bool, bool], list[int]]

_MODELS = ("gpt2", "llama", "t5", "bert", "gemma4")


def load_gguf_metadata(metadata: Mapping[str, Any], source: str) -> Vocabulary:
    """The vocabulary that the metadata of an open GGUF file holds.

    Raises ModelFileError for lists that are missing or contradict each other, UnsupportedModelError for kinds that
    this version does not run.
    """
    return _GgufVocabulary(metadata, source).build()


class _GgufVocabulary:
    """The lists of one file, checked once, and what they mean."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self.metadata = metadata
        self.source = source
        self.model: str = self.need("model", str)
        if self.model not in _MODELS:
            raise UnsupportedModelError(
                f"{source}: tokenizer.ggml.model is {self.model!r}; this version reads {', '.join(_MODELS)}. "
                "Pass tokenizer= a folder with this model's tokenizer.json"
            )
        # Some converters leave reserved tokens empty; llama.cpp's name for them keeps them apart.
        self.tokens: list[str] = [token or f"[EMPTY_{id}]" for id, token in enumerate(self.need("tokens", list))]
        if not all(isinstance(token, str) for token in self.tokens):
            raise ModelFileError(f"{source}: tokenizer.ggml.tokens must be a list of texts")
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self.ids) != len(self.tokens):
            twice = next(token for id, token in enumerate(self.tokens) if self.ids[token] != id)
            raise ModelFileError(f"{source}: the token {twice!r} stands twice in tokenizer.ggml.tokens; convert the model again")
        self.types = self.numbers("token_type") or [NORMAL] * len(self.tokens)
        if wrong := [(id, kind) for id, kind in enumerate(self.types) if type(kind) is not int or not NORMAL <= kind <= BYTE]:
            raise ModelFileError(f"{source}: tokenizer.ggml.token_type gives token {wrong[0][0]} the unknown type {wrong[0][1]}")
        self.bos_id = self.token_id("bos")
        if self.bos_id is None and self.model == "bert":
            self.bos_id = self.token_id("cls")
        self.eos_id = self.token_id("eos")
        self.unknown_id = self.token_id("unknown")
        self.eos_ids = end_ids(self.ids, self.eos_id, self.token_id("eot"), self.token_id("eom"))
        self.added = AddedTokens(self.added_tokens(), source)

    def need(self, key: str, kind: type) -> Any:
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(value, kind):
            found = "is missing" if value is None else f"is a {type(value).__name__}, not a {kind.__name__}"
            raise ModelFileError(f"{self.source}: tokenizer.ggml.{key} {found}; convert the model again or pass tokenizer=")
        return value

    def numbers(self, key: str) -> list[Any] | None:
        """One number per token, or None where the file has no such list."""
        values = self.metadata.get(f"tokenizer.ggml.{key}")
        if values is None:
            return None
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(self.tokens):
            raise ModelFileError(f"{self.source}: tokenizer.ggml.{key} must be a list of {len(self.tokens)} numbers, one per token")
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "iuf":
            raise ModelFileError(f"{self.source}: tokenizer.ggml.{key} must be a list of numbers")
        found: list[Any] = numbers.tolist()
        return found

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, int):
            raise ModelFileError(f"{self.source}: tokenizer.ggml.{key} is a {type(value).__name__}; true or false was expected")
        return bool(value)

    def token_id(self, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        id = self.metadata.get(key)
        if id is not None and not (isinstance(id, int) and 0 <= id < len(self.tokens)):
            raise ModelFileError(f"{self.source}: {key} is {id!r}, but the vocabulary has {len(self.tokens)} tokens")
        return id

    def added_tokens(self) -> Iterable[AddedToken]:
        name = str(self.metadata.get("general.name", "")).lower()
        # GGUF has no field for it: Phi-3's control tokens take in the whitespace after them.
        phi3 = "phi-3" in name or "phi3" in name
        steering = self.eos_ids | {self.bos_id}
        for id, (content, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind in (NORMAL, UNUSED, BYTE) and id not in steering:
                continue
            control = kind != USER_DEFINED or id in steering or is_marker(content)
            strip = phi3 and control and content not in ("<unk>", "<s>", "<|endoftext|>")
            yield AddedToken(id, content, control, right_strip=strip)

    def build(self) -> Vocabulary:
        kinds = {"gpt2": self.byte_level, "llama": self.merging_pieces, "t5": self.unigram_pieces, "bert": self.word_pieces}
        encode, add_bos = {**kinds, "gemma4": self.merged_characters}[self.model]()
        self.prefix = self.model == "bert" or (self.model in ("llama", "t5") and self.adds_prefix())
        beginning = (self.bos_id,) if self.adds_bos(add_bos) and self.bos_id is not None else ()
        end = self.eos_id if self.flag("add_eos_token", False) else None
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unknown_id}
        return Vocabulary(
            source=self.source,
            kind=self.kind(),
            size=len(self.tokens),
            encode=encode,
            token_bytes=self.token_bytes,
            id_to_token=lambda id: self.tokens[id] if 0 <= id < len(self.tokens) else None,
            token_to_id=self.ids.get,
            added=self.added,
            special_ids=frozenset(id for id, kind in enumerate(self.types) if kind in (CONTROL, UNKNOWN)),
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            eos_ids=self.eos_ids,
            beginning=beginning,
            frame=None if end is None else (beginning, (end,)),
            named_tokens={name: self.tokens[id] for name, id in named.items() if id is not None},
            chat_templates=_chat_templates(self.metadata),
        )

    def kind(self) -> str:
        names = {"gpt2": "byte-level BPE", "llama": "SentencePiece BPE", "t5": "SentencePiece unigram", "bert": "WordPiece"}
        names["gemma4"] = "BPE of characters"
        pre = self.metadata.get("tokenizer.ggml.pre", "default")
        return f"{names[self.model]} (GGUF {self.model}{f', words cut as {pre}' if self.model == 'gpt2' else ''})"

    def adds_bos(self, default: bool) -> bool:
        if self.flag("add_bos_token", False) and self.bos_id is None:
            raise ModelFileError(f"{self.source}: tokenizer.ggml.add_bos_token is true, but there is no bos_token_id")
        return self.flag("add_bos_token", default) and self.bos_id is not None

    def adds_prefix(self) -> bool:
        return self.flag("add_space_prefix", True)

    def byte_level(self) -> tuple[_Encode, bool]:
        name = self.metadata.get("tokenizer.ggml.pre")
        if name is None:
            log.warning("%s: no tokenizer.ggml.pre (an old conversion); using 'default', which may cut words differently", self.source)
        pre = pre_tokenizer("default" if name is None else self.need("pre", str), self.source)
        controls = {self.tokens[id] for id in self.added.control_ids}
        words = byte_level.byte_level_encoder(self.tokens, self.need("merges", list), controls, pre, self.source)
        return self.between_added(words), pre.add_bos

    def merged_characters(self) -> tuple[_Encode, bool]:
        self.check_bytes()
        controls = {self.tokens[id] for id in self.added.control_ids}
        lines = byte_level.character_encoder(self.tokens, self.need("merges", list), controls, self.source)
        return self.between_added(lines), True

    def merging_pieces(self) -> tuple[_Encode, bool]:
        """BPE by scores. Spaces become `▁` and nothing else is changed; user-defined tokens are cut out before."""
        self.check_bytes()
        trainer = trainer_message(BPE, byte_fallback=BYTE in self.types)
        pieces = self.sentencepiece_model(trainer, normalizer_message(), user_defined=NORMAL).encoder(self.source)
        control, prefix = self.added.control_ids, "▁" if self.adds_prefix() else ""

        def encode(text: str, special: bool, start: bool) -> list[int]:
            ids: list[int] = []
            lead = prefix  # due at the start and after every control token
            for id, piece in self.added.split(text, special):
                if id in control:
                    ids.append(id)
                    lead = prefix
                    continue
                ids += pieces(lead + piece) if id is None else [*pieces(lead), id]
                lead = ""
            return ids

        return encode, True

    def unigram_pieces(self) -> tuple[_Encode, bool]:
        self.check_bytes()
        charsmap = np.asarray(self.metadata.get("tokenizer.ggml.precompiled_charsmap", np.empty(0, np.uint8)))
        if charsmap.dtype.kind not in "iu":
            raise ModelFileError(f"{self.source}: tokenizer.ggml.precompiled_charsmap must be a list of bytes")
        table = charsmap.astype(np.uint8).tobytes()
        normalizer = normalizer_message(table, self.adds_prefix(), self.flag("remove_extra_whitespaces", False))
        trainer = trainer_message(UNIGRAM, byte_fallback=BYTE in self.types)
        return self.between_added(self.sentencepiece_model(trainer, normalizer, user_defined=USER_DEFINED).encoder(self.source)), False

    def sentencepiece_model(self, trainer: bytes, normalizer: bytes, user_defined: int) -> SentencePieceModel:
        """The lists as a model of exactly one unknown piece, in which no text becomes a control token."""
        scores = self.numbers("scores")
        if scores is None:
            raise ModelFileError(f"{self.source}: tokenizer.ggml.scores is missing; convert the model again or pass tokenizer=")
        wrong = next((i for i, score in enumerate(scores) if not -3e38 < score < 3e38), None)
        if wrong is not None:
            raise ModelFileError(f"{self.source}: tokenizer.ggml.scores holds {scores[wrong]} for token {wrong}")
        as_written = {USER_DEFINED: user_defined, UNKNOWN: CONTROL}
        types = [CONTROL if id in self.added.control_ids else as_written.get(kind, kind) for id, kind in enumerate(self.types)]
        pieces = [token.encode("utf-8", "surrogateescape") for token in self.tokens]
        unknown = self.unknown_id if self.unknown_id is not None else next((i for i, k in enumerate(self.types) if k == UNKNOWN), None)
        if unknown is None:
            if BYTE not in self.types:
                raise ModelFileError(f"{self.source}: the vocabulary has neither byte tokens nor an unknown token for other characters")
            return SentencePieceModel([*pieces, b"\xff"], [*scores, 0.0], [*types, UNKNOWN], trainer, normalizer)
        types[unknown] = UNKNOWN
        return SentencePieceModel(pieces, scores, types, trainer, normalizer)

    def word_pieces(self) -> tuple[_Encode, bool]:
        if self.unknown_id is None:
            raise ModelFileError(f"{self.source}: a WordPiece vocabulary needs tokenizer.ggml.unknown_token_id, which is missing")
        words = {token: id for token, id in self.ids.items() if id not in self.added.control_ids}
        return self.between_added(word_piece_encoder(words, self.unknown_id)), True

    def between_added(self, encode_words: Callable[[str], list[int]]) -> _Encode:
        def encode(text: str, special: bool, start: bool) -> list[int]:
            ids: list[int] = []
            for id, piece in self.added.split(text, special):
                ids.extend(encode_words(piece) if id is None else (id,))
            return ids

        return encode

    def check_bytes(self) -> None:
        values = {self.byte_value(id) for id, kind in enumerate(self.types) if kind == BYTE}
        if values and len(values) < 256:
            missing = next(byte for byte in range(256) if bytes([byte]) not in values)
            raise ModelFileError(f"{self.source}: the vocabulary has byte tokens, but none for 0x{missing:02X}")

    def byte_value(self, id: int) -> bytes:
        byte = byte_level.fallback_byte(self.tokens[id])
        if byte is None:
            raise ModelFileError(f"{self.source}: token {id} is typed as a byte, but reads {self.tokens[id]!r}")
        return byte

    def token_bytes(self, id: int, first: bool) -> bytes:
        token, kind = self.tokens[id], self.types[id]
        if kind == BYTE:
            data = self.byte_value(id)
        elif kind not in (NORMAL, UNUSED):
            return token.encode("utf-8", "surrogateescape")
        elif self.model == "gpt2":
            return byte_level.token_bytes(token)
        else:
            data = token.replace("▁", " ").encode("utf-8", "surrogateescape")
        return data.removeprefix(b" ") if first and self.prefix else data


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """By name; the key without a name is "default"."""
    prefix = "tokenizer.chat_template"
    templates = {key.removeprefix(prefix).removeprefix("."): text for key, text in metadata.items() if key.startswith(prefix)}
    return {name or "default": text for name, text in templates.items() if isinstance(text, str)}
