"""vocab.json with merges.txt: beside transformers, written to GGUF and back, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from text_inputs import CORPUS

from linnet.errors import LinnetError, ModelFileError, UnsupportedModelError
from linnet.quantize.vocabulary import first_difference, vocabulary_metadata
from linnet.text.tokenizer import Tokenizer

TEXTS = [CORPUS[:700], "", " ", "  two  spaces", "né 🦙 \u2028 \x00 \x7f \x85", "a\n\n\nb\r\n", "don't WE'LL 12345", "a</s>b <pad>"]
OPT: dict[str, Any] = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
    "eos_token": "</s>",
    "unk_token": "</s>",
    "pad_token": "<pad>",
    "add_bos_token": True,
    "add_prefix_space": False,
}
"""As in the folders of OPT."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files by the library that such files are trained with, and OPT's config."""
    from tokenizers import ByteLevelBPETokenizer

    peer = ByteLevelBPETokenizer()
    peer.train_from_iterator(CORPUS.splitlines(), vocab_size=600, special_tokens=["<s>", "<pad>", "</s>"], show_progress=False)
    peer.save_model(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(OPT))
    return tmp_path


@pytest.mark.parametrize("prefix", [False, True])
def test_texts_are_cut_as_by_transformers(folder: Path, prefix: bool) -> None:
    from transformers import GPT2Tokenizer

    (folder / "tokenizer_config.json").write_text(json.dumps({**OPT, "add_prefix_space": prefix}))
    ours, peer = Tokenizer(folder), GPT2Tokenizer.from_pretrained(folder, add_prefix_space=prefix)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (peer.bos_token_id, peer.eos_token_id, len(peer))
    for text in TEXTS:
        ids = peer.encode(text, add_special_tokens=False)
        assert ours.encode(text, bos=False, special=True) == ids
        assert ours.encode(text, special=True) == [peer.bos_token_id, *ids]
        assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert not {peer.eos_token_id, peer.pad_token_id} & set(ours.encode("a</s>b <pad>", bos=False))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_max_length": 1024, "chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"},
        {"additional_special_tokens": ["<pad>", "<new>"]},
        {"eos_token": "<|end|>", "pad_token": "<pad>"},
        {"added_tokens_decoder": {"2": {"content": "</s>", "special": True}}},
    ],
)
def test_tokens_that_the_files_do_not_name_are_those_of_the_class(folder: Path, config: dict[str, Any]) -> None:
    from transformers import GPT2Tokenizer

    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours, peer = Tokenizer(folder), GPT2Tokenizer.from_pretrained(folder)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (peer.bos_token_id, peer.eos_token_id, len(peer))
    for text in (*TEXTS, "a<|endoftext|>b<|end|>c<new>d"):
        assert ours.encode(text, bos=False, special=True) == peer.encode(text, add_special_tokens=False)
    if "chat_template" in config:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        expected = peer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert ours.apply_chat_template(messages, add_generation_prompt=False) == expected


def test_listed_tokens_come_after_the_vocabulary_by_their_ids(folder: Path) -> None:
    size = len(json.loads((folder / "vocab.json").read_text()))
    listed = {str(size + i): {"content": token, "special": i < 2} for i, token in enumerate(("<|z|>", "<|a|>", "word"))}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed, "eos_token": "<|a|>"}))
    ours = Tokenizer(folder)
    assert [ours.token_to_id(token) for token in ("<|z|>", "<|a|>", "word")] == [size, size + 1, size + 2]
    assert ours.eos_id == size + 1
    assert ours.encode("<|z|>word<|a|>", bos=False, special=True) == [size, size + 2, size + 1]


def test_its_gguf_cuts_texts_as_it_does(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    metadata, _ = vocabulary_metadata(tokenizer, tokenizer.vocab_size)
    assert first_difference(tokenizer, metadata) is None


def without_merges(folder: Path) -> None:
    (folder / "merges.txt").unlink()


def change_vocabulary(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        change(vocabulary)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))

    return changed


@pytest.mark.parametrize(
    ("break_it", "kind", "said"),
    [
        (without_merges, ModelFileError, "merges.txt is missing"),
        (lambda folder: (folder / "merges.txt").write_text("#version: 0.2\na b c\n"), ModelFileError, "line 2"),
        (lambda folder: (folder / "merges.txt").write_text("nowhere found\n"), ModelFileError, "not a vocabulary that goes with"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}'),
            UnsupportedModelError,
            "CLIP",
        ),
        (change_vocabulary(lambda vocabulary: vocabulary.pop("Ġ")), UnsupportedModelError, "1 of the 256 bytes"),
        (change_vocabulary(lambda vocabulary: vocabulary.update(a=-1)), ModelFileError, "'a' has the id -1"),
        (change_vocabulary(lambda vocabulary: vocabulary.update(a=True)), ModelFileError, "'a' has the id True"),
        (change_vocabulary(lambda vocabulary: vocabulary.update(a=2**40)), ModelFileError, "not a vocabulary that goes with"),
        (change_vocabulary(lambda vocabulary: vocabulary.update(a=vocabulary["b"])), ModelFileError, "one id"),
    ],
)
def test_files_that_are_none_are_refused(folder: Path, break_it: Callable[[Path], Any], kind: type[LinnetError], said: str) -> None:
    break_it(folder)
    with pytest.raises(kind, match=said):
        Tokenizer(folder / "vocab.json")


@pytest.mark.parametrize(("kind", "read"), [("opt", True), ("gpt2", True), ("bart", False), ("qwen2", False), (None, False)])
def test_where_no_class_is_named_the_model_tells(folder: Path, kind: str | None, read: bool) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    if read:
        assert Tokenizer(folder).eos_id == Tokenizer(folder).token_to_id("<|endoftext|>")
        return
    with pytest.raises(ModelFileError, match="or other tokenizer"):
        Tokenizer(folder)
    with pytest.raises(UnsupportedModelError, match=f"tokenizer of a {kind} is more than"):
        Tokenizer(folder / "vocab.json")


def test_a_folder_of_vocab_json_alone_has_no_tokenizer(folder: Path) -> None:
    without_merges(folder)
    with pytest.raises(ModelFileError, match="or other tokenizer; pass a folder with"):
        Tokenizer(folder)
