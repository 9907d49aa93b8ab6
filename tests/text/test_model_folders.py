"""Folders that hold only tokenizer.model, beside transformers, which converts it; and what their config adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from text_inputs import train_sentencepiece
from vocabularies import random_texts

from linnet.text.tokenizer import Tokenizer

ADDED = {
    "700": {"content": "<|turn|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False},
    "701": {"content": "<tool>", "special": False, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False},
    "702": {"content": "ZZZ", "special": False, "lstrip": False, "rstrip": True, "normalized": False, "single_word": False},
}


def folder(path: Path, config: dict[str, Any], **training: Any) -> Path:
    (path / "tokenizer.model").write_bytes(train_sentencepiece(**training).serialized_model_proto())
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **config}), "utf-8")
    return path


def test_a_folder_with_only_a_model_gives_the_ids_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="transformers reads tokenizer.model through protobuf")
    from transformers import AutoTokenizer

    path = folder(tmp_path, {"added_tokens_decoder": ADDED, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    ours, peer = Tokenizer(path), AutoTokenizer.from_pretrained(path)
    for text in [*random_texts(500, seed=4), "a<|turn|>b <tool>c</s>d", "xZZZ  y"]:
        if text[:1] in (" ", "▁"):
            continue  # where transformers puts no space in front, unlike sentencepiece and llama.cpp, whose word counts here
        assert ours.encode(text, bos=False, special=True) == peer.encode(text, add_special_tokens=False), repr(text)


def test_what_the_config_adds_is_the_models(tmp_path: Path) -> None:
    ours = Tokenizer(folder(tmp_path, {"added_tokens_decoder": ADDED, "chat_template": "T"}))
    assert (ours.vocab_size, ours.bos_id, ours.eos_id, ours.chat_template) == (703, 1, 2, "T")
    assert {700, 701} <= ours.control_ids
    assert 702 not in ours.control_ids
    plain = ours.encode("a<|turn|>b<tool>c</s>")
    assert plain[0] == 1
    assert ours.control_ids.isdisjoint(plain[1:])
    assert ours.decode(plain) == "a<|turn|>b<tool>c</s>"
    special = ours.encode("a<|turn|>b", special=True, bos=False)
    assert special == [*ours.encode("a", bos=False), 700, ours.token_to_id("b")], "no space in front of what follows a control token"
    assert 702 in ours.encode("xZZZ  y")
    assert ours.decode(special, skip_special=False) == "a<|turn|>b"
    assert ours.id_to_token(700) == "<|turn|>"


def test_settings_of_the_config_are_followed(tmp_path: Path) -> None:
    path = folder(tmp_path, {"add_bos_token": False, "legacy": True, "added_tokens_decoder": ADDED})
    ours = Tokenizer(path)
    assert ours.encode("a")[0] != ours.bos_id
    assert ours.encode("<|turn|>a", special=True) == [700, *ours.encode("a")], "an old model has a space there"


def test_the_names_of_the_model_itself_count_without_a_config(tmp_path: Path) -> None:
    trained = train_sentencepiece(bos_piece="<bos>", eos_piece="<eos>", user_defined_symbols=["<start_of_turn>", "brown"])
    (tmp_path / "x.model").write_bytes(trained.serialized_model_proto())
    ours = Tokenizer(tmp_path / "x.model")
    assert (ours.bos_id, ours.eos_id) == (trained.bos_id(), trained.eos_id())
    marker = trained.piece_to_id("<start_of_turn>")
    assert marker in ours.control_ids, "a marker that is not flagged"
    assert marker not in ours.encode("a<start_of_turn>b")
    assert marker in ours.encode("a<start_of_turn>b", special=True)
    assert trained.piece_to_id("brown") in ours.encode("xbrownx"), "content that the model asks to keep whole"


def test_older_folders_list_added_tokens_apart(tmp_path: Path) -> None:
    path = folder(tmp_path, {})
    (path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 700, "<|im_start|>": 701}))
    (path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    ours = Tokenizer(path)
    assert ours.eos_id == 700
    assert ours.encode("<|im_start|>", special=True, bos=False) == [701]
    assert {700, 701}.isdisjoint(ours.encode("<|im_start|><|im_end|>"))
    assert 700 in ours.eos_ids
