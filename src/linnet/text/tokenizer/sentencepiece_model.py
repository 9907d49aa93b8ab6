"""SentencePiece models as bytes: what a `ModelProto` holds, read, written and checked, and the library that runs it.

Field numbers: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto. Knows no file format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linnet.errors import ModelFileError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
MAX_PIECES = 2**19
"""Twice as many as any known model has."""

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MODEL_TYPE, _TREAT_WHITESPACE_AS_SUFFIX = 3, 24
_KINDS = {UNIGRAM: "unigram", BPE: "BPE", 3: "words", 4: "characters"}
_NAMES = {"unk_token": (45, b"<unk>"), "bos_token": (46, b"<s>"), "eos_token": (47, b"</s>")}
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES = 2, 3, 4


@dataclass(frozen=True)
class SentencePieceModel:
    """`pieces`, `scores` and `types` by id; `trainer` and `normalizer` are the messages of those names, serialized."""

    pieces: Sequence[bytes]
    scores: Sequence[float]
    types: Sequence[int]
    trainer: bytes
    normalizer: bytes

    @property
    def kind(self) -> str:
        """The name of its algorithm, one of the library's."""
        return _KINDS.get(_last(self.trainer, _MODEL_TYPE, UNIGRAM), "model")

    @property
    def charsmap(self) -> bytes:
        """The normalization table in the library's format; empty if texts are not normalized."""
        return bytes(_last(self.normalizer, _CHARSMAP, b""))

    @property
    def removes_extra_spaces(self) -> bool:
        return bool(_last(self.normalizer, _REMOVE_EXTRA_SPACES, 1))

    @property
    def adds_prefix(self) -> bool:
        """Whether texts get a space in front."""
        return bool(_last(self.normalizer, _ADD_DUMMY_PREFIX, 1))

    def named_tokens(self) -> dict[str, str]:
        """The texts of bos_token and the like, those that the model has."""
        named = {name: bytes(_last(self.trainer, number, default)) for name, (number, default) in _NAMES.items()}
        control = {piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind in (UNKNOWN, CONTROL)}
        return {name: piece.decode("utf-8", "replace") for name, piece in named.items() if piece in control}

    def without_prefix(self) -> SentencePieceModel:
        """The same model without the space in front, for texts that follow others. (Of a repeated protobuf field, the last counts.)"""
        return replace(self, normalizer=self.normalizer + _varint(_ADD_DUMMY_PREFIX << 3 | _VARINT) + b"\0")

    def encoder(self, source: str) -> Callable[[str], list[int]]:
        """From text to ids, by the `sentencepiece` library. Raises ModelFileError for a model that it refuses."""
        from sentencepiece import SentencePieceProcessor

        _check_charsmap(self.charsmap, source)
        processor: Any = SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.serialized())
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise ModelFileError(f"{source}: the sentencepiece library refuses the vocabulary ({error})") from error
        encode: Callable[[str], list[int]] = processor.EncodeAsIds
        return encode

    def serialized(self) -> bytes:
        # The library takes no zero bytes; no token of a model that runs needs one.
        pieces = [f"\ue000{i}".encode() if b"\0" in piece else piece for i, piece in enumerate(self.pieces)]
        scores = np.array(self.scores, "<f4").tobytes()
        fields = [
            _PIECE_TAG + _SMALL[len(piece) + 9] + b"\x0a" + _SMALL[len(piece)] + piece + b"\x15" + scores[4 * i : 4 * i + 4] + _KIND[kind]
            if len(piece) < 119  # nearly all: written out, since a vocabulary has 100,000
            else _field(_PIECES, _field(1, piece) + b"\x15" + scores[4 * i : 4 * i + 4] + _KIND[kind])
            for i, (piece, kind) in enumerate(zip(pieces, self.types, strict=True))
        ]
        return b"".join(fields) + _field(_TRAINER, self.trainer) + _field(_NORMALIZER, self.normalizer)


def trainer_message(kind: int, byte_fallback: bool) -> bytes:
    """kind: UNIGRAM or BPE."""
    return b"\x18" + bytes([kind]) + _varint(35 << 3 | _VARINT) + bytes([byte_fallback])


def normalizer_message(charsmap: bytes = b"", add_prefix: bool = False, remove_extra_spaces: bool = False) -> bytes:
    return _field(_CHARSMAP, charsmap) + b"\x18" + bytes([add_prefix]) + b"\x20" + bytes([remove_extra_spaces])


def read_model(data: bytes, source: str) -> SentencePieceModel:
    """Raises ModelFileError for bytes that are not a ModelProto, or one of an unknown kind."""
    pieces: list[bytes] = []
    scores: list[float] = []
    types: list[int] = []
    parts = {_TRAINER: b"", _NORMALIZER: b""}
    try:
        for number, value in _fields(data):
            if number == _PIECES:
                if len(pieces) == MAX_PIECES:
                    raise ModelFileError(f"{source}: more than {MAX_PIECES} pieces")
                piece: dict[int, Any] = {2: b"\0\0\0\0", 3: NORMAL}
                piece.update(_fields(value))
                pieces.append(bytes(piece[1]))
                scores.append(struct.unpack("<f", piece[2])[0])
                types.append(int(piece[3]))
            elif number in parts:
                parts[number] += value
        model = SentencePieceModel(pieces, scores, types, parts[_TRAINER], parts[_NORMALIZER])
        suffix, _, _ = _last(model.trainer, _TREAT_WHITESPACE_AS_SUFFIX, 0), model.adds_prefix, model.named_tokens()
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ModelFileError(f"{source}: neither a SentencePiece model nor a tiktoken file; is the download complete?") from error
    if not pieces:
        raise ModelFileError(f"{source}: a SentencePiece model without pieces")
    if wrong := [(i, kind) for i, kind in enumerate(types) if not NORMAL <= kind <= BYTE]:
        raise ModelFileError(f"{source}: piece {wrong[0][0]} has the unknown type {wrong[0][1]}")
    if suffix:
        raise ModelFileError(f"{source}: a model that writes spaces after words (treat_whitespace_as_suffix) is not supported")
    return model


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message: int for a varint, else bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _read_varint(data, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _read_varint(data, position)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            size, position = _read_varint(data, position)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError("an unknown wire type")
        if size > end - position:
            raise ValueError("a field passes the end")
        yield tag >> 3, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _last(message: bytes, number: int, default: Any) -> Any:
    return next((value for found, value in reversed(list(_fields(message))) if found == number), default)


_SMALL = [bytes([value]) for value in range(128)]
_KIND = [b"\x18" + small for small in _SMALL]
_PIECE_TAG = bytes([_PIECES << 3 | _BYTES])


def _varint(value: int) -> bytes:
    if value < 128:
        return _SMALL[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _check_charsmap(data: bytes, source: str) -> None:
    """Proves that no text can lead the library outside the normalization table, which it follows without checking bounds.

    Format: 4 bytes of length, a double-array trie (32-bit units), the replacements, each ended by a zero byte.
    A unit holds a label (bits 0-7, and 31 where it is a value), whether a value follows (bit 8), and the offset to its children.
    """
    if not data:
        return
    size = int.from_bytes(data[:4], "little")
    texts = data[4 + size :]
    if len(data) < 4 or size % 1024 or size == 0 or size > len(data) - 4 or not texts.endswith(b"\0"):
        raise ModelFileError(f"{source}: the normalization table (precompiled charsmap) is cut or has wrong lengths")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    inner = np.flatnonzero(units >> 31 == 0)
    offsets = (units[inner] >> 10) << ((units[inner] & 512) >> 6)
    children = inner.astype(np.uint32) ^ offsets  # a child is at this, its lowest byte changed by the label
    inside = children >> 8 < len(units) >> 8
    values = units[children[inside & (units[inner] >> 8 & 1 == 1)]] & 0x7FFFFFFF
    if not inside.all() or (values >= len(texts)).any():
        raise ModelFileError(f"{source}: the normalization table (precompiled charsmap) points outside of itself")
