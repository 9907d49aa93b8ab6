"""SentencePiece-style GGUF vocabularies against the sentencepiece library, on models trained here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_inputs import CORPUS, sentencepiece_metadata, train_sentencepiece

from linnet.text.tokenizer import Tokenizer

TRAININGS: dict[str, dict[str, Any]] = {
    "byte fallback": {},
    "no dummy prefix": {"add_dummy_prefix": False},
    "pieces over spaces": {"split_by_whitespace": False},
    "no bytes": {"byte_fallback": False, "vocab_size": 400},
    "user-defined": {"user_defined_symbols": ["brown", "\n"]},
}
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [*CORPUS[:400].split(), " ", "  ", "\n", "\t", "é", "🦙", "你好", "ああ", "▁", "é", "<s>", "</s>", "<unk>", "<0x0A>"]
        ),
        st.text(max_size=5),
    ),
    max_size=15,
).map("".join)


@cache
def pair(training: str) -> tuple[Any, Tokenizer]:
    options = TRAININGS[training]
    processor = train_sentencepiece(**options)
    metadata = sentencepiece_metadata(processor, tuple(options.get("user_defined_symbols", ())))
    if options.get("add_dummy_prefix") is False:
        metadata["tokenizer.ggml.add_space_prefix"] = False
    return processor, Tokenizer.from_gguf_metadata(metadata, training)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_long_text_gives_the_same_ids(training: str) -> None:
    processor, tokenizer = pair(training)
    assert tokenizer.encode(CORPUS, bos=False) == processor.encode(CORPUS)
    assert tokenizer.encode(CORPUS) == [processor.bos_id(), *processor.encode(CORPUS)]


@pytest.mark.parametrize("training", TRAININGS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_any_text_gives_the_same_ids_and_comes_back(training: str, text: str) -> None:
    processor, tokenizer = pair(training)
    text = text.replace("\0", "")  # sentencepiece ends a text there in some versions
    ids = tokenizer.encode(text, bos=False)
    assert ids == processor.encode(text)
    if training != "no bytes":
        assert tokenizer.decode(ids) == processor.decode(ids) == text.replace("▁", " ")


@pytest.mark.parametrize("character", ["a", " ", "é", "\n", "xy"])
def test_a_long_run_of_one_character_gives_the_same_ids(character: str) -> None:
    processor, tokenizer = pair("byte fallback")
    text = character * 30_000
    assert tokenizer.encode(text, bos=False) == processor.encode(text)


def with_unused(model: bytes, unused: set[int]) -> bytes:
    """A serialized ModelProto with the type of some pieces set to UNUSED. Pieces come first: tag 0x0A, a length, a message."""
    out, position, id = bytearray(), 0, 0
    while model[position] == 0x0A:
        length = model[position + 1]
        assert length < 0x78, "longer pieces would need a second byte of length"
        message = model[position + 2 : position + 2 + length] + (b"\x18\x05" if id in unused else b"")
        out += bytes([0x0A, len(message)]) + message
        position, id = position + 2 + length, id + 1
    return bytes(out) + model[position:]


def test_unused_pieces_are_merged_through_and_taken_apart() -> None:
    import sentencepiece

    trained = train_sentencepiece()
    normal = np.flatnonzero(sentencepiece_metadata(trained)["tokenizer.ggml.token_type"] == 1).tolist()
    unused = {id for id in normal[::2] if len(trained.id_to_piece(id)) > 1}
    processor = sentencepiece.SentencePieceProcessor(model_proto=with_unused(trained.serialized_model_proto(), unused))
    assert sum(processor.is_unused(id) for id in normal) == len(unused) > 100
    tokenizer = Tokenizer.from_gguf_metadata(sentencepiece_metadata(processor), "unused")
    changed = 0
    for line in CORPUS[:2000].splitlines():
        ids = processor.encode(line)
        assert tokenizer.encode(line, bos=False) == ids
        assert unused.isdisjoint(ids)
        changed += ids != trained.encode(line)
    assert changed, "no line used a piece that was taken away: the test shows nothing"


def test_equal_scores_merge_leftmost_first() -> None:
    """The rule where scores tie; a list of ranks could not say it."""
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "▁", "a", "b", "ab", "ba"],
        "tokenizer.ggml.scores": [0.0, -9.0, -9.0, -9.0, -1.0, -1.0],
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
    }
    tokenizer = Tokenizer.from_gguf_metadata(metadata, "ties")
    assert tokenizer.encode("aba") == [4, 2]
    assert tokenizer.encode("bab") == [5, 3]
