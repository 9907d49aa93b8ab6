"""Tokenizers of every kind in GGUF's keys: what comes out cuts texts as the libraries that they are from do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from text_inputs import CORPUS, SHARED, save_folder, train_sentencepiece
from tiny_model import TINY
from vocabularies import random_texts, unigram, word_piece

import linnet
from linnet import Tokenizer
from linnet.errors import UnsupportedModelError
from linnet.load.gguf import read_gguf
from linnet.quantize.merges import merges_of_ranks
from linnet.quantize.tokenizer_files import tokenizer_files
from linnet.quantize.vocabulary import vocabulary_metadata

TEXTS = [CORPUS[:600], "It's 12345 o'clock,  isn't it?\n\n\tDON'T!", "camelCase x_1 = {y: [2.5]}", *random_texts(40, seed=11)]
GPT4_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained_bytes(pre: Callable[[Any], Any]) -> Any:
    """Byte-level BPE of the `tokenizers` library; pre: what cuts words, of its module."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre(pre_tokenizers)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([*CORPUS.splitlines(keepends=True), "12345 678 90 " * 50], trainer)
    library.add_special_tokens(["<|user|>"])
    library.add_tokens([AddedToken("<think>", normalized=False)])
    return library


def gpt2_words(pre: Any) -> Any:
    return pre.ByteLevel(add_prefix_space=False)


def single_digits(pre: Any) -> Any:
    return pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])


def qwens_words(pre: Any) -> Any:
    from tokenizers import Regex

    return pre.Sequence([pre.Split(Regex(GPT4_WORDS), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def threes(pre: Any) -> Any:
    from tokenizers import Regex

    pattern = Regex(GPT4_WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|", 1))
    return pre.Sequence([pre.Split(pattern, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize(("pre", "name"), [(gpt2_words, "gpt-2"), (single_digits, "starcoder"), (qwens_words, "qwen2"), (threes, "dbrx")])
def test_byte_level_vocabularies_get_the_name_of_how_they_cut_words(pre: Callable[[Any], Any], name: str, tmp_path: Path) -> None:
    library = trained_bytes(pre)
    tokenizer = Tokenizer(save_folder(tmp_path / "folder", library, eos_token="<|end|>", chat_template="{{ messages }}"))
    rows = tokenizer.vocab_size + 5
    metadata, notes = vocabulary_metadata(tokenizer, rows)
    assert metadata["tokenizer.ggml.pre"] == name
    assert not notes
    assert metadata["tokenizer.ggml.tokens"][-5:] == [f"[PAD{id}]" for id in range(rows - 5, rows)]
    read = Tokenizer.from_gguf_metadata(metadata, "made")
    for text in TEXTS:
        assert read.encode(text) == library.encode(text, add_special_tokens=False).ids
    for token in ("<|end|>", "<|user|>", "<think>"):
        assert read.encode(token, special=True) == [library.token_to_id(token)]
    assert (read.eos_id, read.chat_template) == (tokenizer.eos_id, "{{ messages }}")
    assert read.special_ids == tokenizer.special_ids


def test_words_that_are_cut_like_no_others_are_refused(tmp_path: Path) -> None:
    def no_words(pre: Any) -> Any:
        from tokenizers import Regex

        return pre.Sequence([pre.Split(Regex(r"[aeiou]|\s"), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])

    tokenizer = Tokenizer(save_folder(tmp_path / "folder", trained_bytes(no_words)))
    with pytest.raises(UnsupportedModelError, match=r"no words for how this tokenizer cuts texts.*--force"):
        vocabulary_metadata(tokenizer, tokenizer.vocab_size)
    _, notes = vocabulary_metadata(tokenizer, tokenizer.vocab_size, lenient=True)
    assert "cuts texts" in notes[0]


SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "bpe": {},
    "no-prefix": {"add_dummy_prefix": False},
    "user-defined": {"user_defined_symbols": ["brown", "\n"]},
    "no-bytes": {"byte_fallback": False, "vocab_size": 400},
    "unigram": {"model_type": "unigram", "vocab_size": 360},
    "unigram-normalised": {"model_type": "unigram", "vocab_size": 360, "normalization_rule_name": "nmt_nfkc"},
}


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_sentencepiece_models(kind: str, tmp_path: Path) -> None:
    library = train_sentencepiece(**SENTENCEPIECE[kind])
    (tmp_path / "tokenizer.model").write_bytes(library.serialized_model_proto())
    tokenizer = Tokenizer(tmp_path)
    metadata, notes = vocabulary_metadata(tokenizer, tokenizer.vocab_size)
    assert not notes
    assert metadata["tokenizer.ggml.model"] == ("t5" if "unigram" in kind else "llama")
    read = Tokenizer.from_gguf_metadata(metadata, "made")
    for text in TEXTS:
        assert read.encode(text, bos=False) == library.encode(text)
    assert read.encode("Hello") == [library.bos_id(), *library.encode("Hello")]
    files, _ = tokenizer_files(read, read.vocab_size, metadata)
    (tmp_path / "back").mkdir()
    for name, content in files.items():
        (tmp_path / "back" / name).write_bytes(content)
    back = Tokenizer(tmp_path / "back")
    for text in TEXTS:
        assert back.encode(text) == read.encode(text)


def test_tokenizer_json_made_from_sentencepiece(tmp_path: Path) -> None:
    """As Llama 2's: merges in the order of scores, which become scores again."""
    from tokenizers import AddedToken, Tokenizer as Library, decoders, models, normalizers  # noqa: I001

    peer = train_sentencepiece()
    pieces = [(peer.id_to_piece(id), peer.get_score(id)) for id in range(peer.vocab_size())]
    ids = {piece: id for id, (piece, _) in enumerate(pieces)}
    made = [(piece[:i], piece[i:], score) for piece, score in pieces for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
    merges = [(left, right) for left, right, _ in sorted(made, key=lambda merge: -merge[2]) if not (left + right).startswith("<")]
    library = Library(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    library.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    tokenizer = Tokenizer(save_folder(tmp_path / "folder", library, bos_token="<s>", eos_token="</s>", unk_token="<unk>"))
    metadata, _ = vocabulary_metadata(tokenizer, tokenizer.vocab_size)
    assert metadata["tokenizer.ggml.model"] == "llama"
    read = Tokenizer.from_gguf_metadata(metadata, "made")
    for text in TEXTS:
        if text:
            assert read.encode(text, bos=False) == library.encode(text, add_special_tokens=False).ids


def test_kinds_that_gguf_does_not_have(tmp_path: Path) -> None:
    for name, library in (("pieces", word_piece()), ("normalised", unigram())):
        tokenizer = Tokenizer(save_folder(tmp_path / name, library))
        with pytest.raises(UnsupportedModelError, match="GGUF"):
            vocabulary_metadata(tokenizer, tokenizer.vocab_size)


def test_ranks_of_tiktoken_become_merges(tmp_path: Path) -> None:
    """Ranks in the order in which a tokenizer learnt its merges give these merges back."""
    from linnet.text.tokenizer.byte_level import BYTE_OF

    content = json.loads(trained_bytes(gpt2_words).to_str())
    tokens = [token for token in content["model"]["vocab"] if token != "<|end|>"]

    def data(token: str) -> bytes:
        return bytes(BYTE_OF[character] for character in token)

    ranks = {data(token): rank for rank, token in enumerate(sorted(tokens, key=content["model"]["vocab"].__getitem__))}
    expected = [(data(left), data(right)) for left, right in content["model"]["merges"]]
    assert list(merges_of_ranks(ranks)) == expected


@pytest.mark.skipif(not (SHARED / "data" / "vocab").is_dir(), reason="../shared/data/vocab is not there")
def test_qwens_tiktoken_file_becomes_the_vocabulary_that_was_published(tmp_path: Path) -> None:
    from test_every_kind import write_ranks

    published = SHARED / "data" / "vocab" / "ggml-vocab-qwen2.gguf"
    write_ranks(tmp_path / "qwen.tiktoken", published, 151643)
    metadata, _ = vocabulary_metadata(Tokenizer(tmp_path), 151936)
    said = read_gguf(published).metadata
    assert metadata["tokenizer.ggml.pre"] == said["tokenizer.ggml.pre"]
    assert metadata["tokenizer.ggml.merges"] == said["tokenizer.ggml.merges"]
    assert metadata["tokenizer.ggml.tokens"][:151643] == said["tokenizer.ggml.tokens"][:151643]


def test_templates_by_name(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "{{ messages[0].content }}"}, {"name": "tool_use", "template": "{{ tools }}"}]
    library = trained_bytes(gpt2_words)
    tokenizer = Tokenizer(save_folder(tmp_path / "folder", library, eos_token="<|end|>", chat_template=templates))
    metadata, _ = vocabulary_metadata(tokenizer, tokenizer.vocab_size)
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    assert Tokenizer.from_gguf_metadata(metadata, "made").chat_templates == {entry["name"]: entry["template"] for entry in templates}


def test_a_vocabulary_of_another_gguf_file_is_copied(tmp_path: Path) -> None:
    linnet.quantize(TINY, tmp_path / "one.gguf", "q8_0")
    linnet.quantize(TINY, tmp_path / "two.gguf", "q8_0", tokenizer=tmp_path / "one.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
