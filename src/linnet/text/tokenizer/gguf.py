"""The tokenizer inside a GGUF file, from its metadata: byte-level BPE ("gpt2") and SentencePiece-style ("llama").

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.text.tokenizer import byte_level
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.pretokenizers import pre_tokenizer
from linnet.text.tokenizer.score_merges import ScoreMerges
from linnet.text.tokenizer.vocabulary import Vocabulary

log = logging.getLogger(__name__)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# Converters type these as they please and name one of them as the end at most.
_END_TEXTS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)


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
        if self.model not in ("gpt2", "llama"):
            raise UnsupportedModelError(
                f"{source}: tokenizer.ggml.model is {self.model!r}; this version reads 'gpt2' and 'llama'. "
                "Pass tokenizer= a folder with this model's tokenizer.json"
            )
        # Some converters leave reserved tokens empty; llama.cpp's name for them keeps them apart.
        self.tokens: list[str] = [token or f"[EMPTY_{id}]" for id, token in enumerate(self.need("tokens", list))]
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self.ids) != len(self.tokens):
            twice = next(token for id, token in enumerate(self.tokens) if self.ids[token] != id)
            raise ModelFileError(f"{source}: the token {twice!r} stands twice in tokenizer.ggml.tokens; convert the model again")
        self.types = self.numbers("token_type") or [NORMAL] * len(self.tokens)
        self.bos_id = self.token_id("bos")
        self.eos_id = self.token_id("eos")
        self.unknown_id = self.token_id("unknown")
        self.eos_ids = self.ends()
        self.added = AddedTokens(self.added_tokens())

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
        return values.tolist() if hasattr(values, "tolist") else list(values)

    def token_id(self, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        id = self.metadata.get(key)
        if id is not None and not (isinstance(id, int) and 0 <= id < len(self.tokens)):
            raise ModelFileError(f"{self.source}: {key} is {id!r}, but the vocabulary has {len(self.tokens)} tokens")
        return id

    def ends(self) -> frozenset[int]:
        """Every token that ends an answer: as the file names them, and by the texts that models use for it."""
        texts = [text for text in _END_TEXTS if text in self.ids]
        if "<|return|>" in texts and "<|call|>" in texts and "<|end|>" in texts:
            texts.remove("<|end|>")  # it ends a part of an answer in OpenAI's harmony format
        named = (self.eos_id, self.token_id("eot"), self.token_id("eom"), *(self.ids[text] for text in texts))
        return frozenset(id for id in named if id is not None)

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
        encode, add_bos, prefix = self.byte_level() if self.model == "gpt2" else self.sentencepiece()
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unknown_id}
        return Vocabulary(
            source=self.source,
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
            add_bos=self.adds_bos(add_bos),
            strip_first_space=prefix,
            named_tokens={name: self.tokens[id] for name, id in named.items() if id is not None},
            chat_templates=_chat_templates(self.metadata),
        )

    def adds_bos(self, default: bool) -> bool:
        stated = self.metadata.get("tokenizer.ggml.add_bos_token")
        if stated and self.bos_id is None:
            raise ModelFileError(f"{self.source}: tokenizer.ggml.add_bos_token is true, but there is no bos_token_id")
        return bool(default if stated is None else stated) and self.bos_id is not None

    def byte_level(self) -> tuple[Callable[[str, bool], list[int]], bool, bool]:
        name = self.metadata.get("tokenizer.ggml.pre")
        if name is None:
            log.warning("%s: no tokenizer.ggml.pre (an old conversion); using 'default', which may cut words differently", self.source)
        pre = pre_tokenizer("default" if name is None else name, self.source)
        controls = {self.tokens[id] for id in self.added.control_ids}
        words = byte_level.byte_level_encoder(self.tokens, self.need("merges", list), controls, pre, self.source)

        def encode(text: str, special: bool) -> list[int]:
            ids: list[int] = []
            for id, piece in self.added.split(text, special):
                ids.extend(words(piece) if id is None else (id,))
            return ids

        return encode, pre.add_bos, False

    def sentencepiece(self) -> tuple[Callable[[str, bool], list[int]], bool, bool]:
        scores = self.numbers("scores")
        if scores is None:
            raise ModelFileError(f"{self.source}: tokenizer.ggml.scores is missing; convert the model again or pass tokenizer=")
        merged = (NORMAL, USER_DEFINED, UNUSED)
        control = self.added.control_ids
        pieces = {token: id for id, token in enumerate(self.tokens) if self.types[id] in merged and id not in control}
        unused = {id for id, kind in enumerate(self.types) if kind == UNUSED}
        merges = ScoreMerges(pieces, scores, unused, self.byte_ids(), self.unknown_id)
        prefix = bool(self.metadata.get("tokenizer.ggml.add_space_prefix", True))

        def encode(text: str, special: bool) -> list[int]:
            ids: list[int] = []
            lead = "▁" if prefix else ""  # due at the start and after every control token
            for id, piece in self.added.split(text, special):
                if id in control:
                    ids.append(id)
                    lead = "▁" if prefix else ""
                    continue
                ids.extend(merges.encode(lead + (piece.replace(" ", "▁") if id is None else "")))
                if id is not None:
                    ids.append(id)
                lead = ""
            return ids

        return encode, True, prefix

    def byte_ids(self) -> Sequence[int] | None:
        """The ids of bytes 0 to 255; None where the vocabulary has none."""
        ids = {self.token_bytes(id): id for id, kind in enumerate(self.types) if kind == BYTE}
        if not ids:
            return None
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
        if missing:
            raise ModelFileError(f"{self.source}: the vocabulary has byte tokens, but none for 0x{missing[0]:02X}")
        return [ids[bytes([byte])] for byte in range(256)]

    def token_bytes(self, id: int) -> bytes:
        token, kind = self.tokens[id], self.types[id]
        if kind == BYTE:
            byte = byte_level.fallback_byte(token)
            if byte is None:
                raise ModelFileError(f"{self.source}: token {id} is typed as a byte, but reads {token!r}")
            return byte
        if kind not in (NORMAL, UNUSED):
            return token.encode("utf-8", "surrogateescape")
        if self.model == "gpt2":
            return byte_level.token_bytes(token)
        return token.replace("▁", " ").encode("utf-8", "surrogateescape")


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """By name; the key without a name is "default"."""
    prefix = "tokenizer.chat_template"
    templates = {key.removeprefix(prefix).removeprefix("."): text for key, text in metadata.items() if key.startswith(prefix)}
    return {name or "default": text for name, text in templates.items() if isinstance(text, str)}
