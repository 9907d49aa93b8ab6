"""GGUF vocabularies against the ids that llama.cpp's collection records for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_inputs import CORPUS, SHARED

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.gguf import read_gguf
from linnet.text.tokenizer import Tokenizer

VOCABULARIES = sorted((SHARED / "data" / "vocab").glob("*.gguf"))
needs_vocabularies = pytest.mark.skipif(not VOCABULARIES, reason="../shared/data/vocab is not there")


@needs_vocabularies
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_every_recorded_text_gives_the_recorded_ids_and_comes_back(path: Path) -> None:
    tokenizer = Tokenizer(path)
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    recorded = [[int(id) for id in line.split()] for line in Path(f"{path}.out").read_text().split("\n")]
    assert len(texts) >= 40
    for text, ids in zip(texts, recorded, strict=True):
        assert tokenizer.encode(text, bos=False) == ids, text
        assert tokenizer.decode(ids) == text


@needs_vocabularies
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_a_vocabulary_without_tensors_says_what_it_holds(path: Path) -> None:
    tokenizer = Tokenizer(path)
    metadata = read_gguf(path).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokenizer.vocab_size == len(tokens)
    assert tokenizer.eos_id == metadata["tokenizer.ggml.eos_token_id"]
    assert tokenizer.eos_id in tokenizer.eos_ids <= tokenizer.control_ids
    assert tokenizer.bos_id == metadata.get("tokenizer.ggml.bos_token_id")
    assert tokenizer.chat_template == metadata.get("tokenizer.chat_template")
    assert [tokenizer.token_to_id(tokens[id]) for id in range(0, len(tokens), 997)] == list(range(0, len(tokens), 997))
    starts_with_bos = tokenizer.encode("Hello")[0] == tokenizer.bos_id
    assert starts_with_bos == metadata.get("tokenizer.ggml.add_bos_token", False)
    controls = set(np.flatnonzero(metadata["tokenizer.ggml.token_type"] == 3).tolist())
    assert controls <= tokenizer.special_ids
    for id in controls:
        assert tokenizer.encode(tokens[id], bos=False, special=True) == [id]
        assert id not in tokenizer.encode(f"a{tokens[id]}b", bos=False)
        assert tokenizer.decode(tokenizer.encode(f"a{tokens[id]}b", bos=False)) == f"a{tokens[id]}b"


def gpt2_metadata() -> dict[str, Any]:
    from linnet.text.tokenizer.byte_level import BYTE_OF

    tokens = [*BYTE_OF, "ab", "<|end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * 257 + [3], np.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 257,
    }


def test_a_user_defined_token_matches_as_content_and_a_marker_only_when_asked() -> None:
    metadata = gpt2_metadata()
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "   ", "õ", "<think>", "<table>"]
    metadata["tokenizer.ggml.token_type"] = [1] * 257 + [3, 4, 4, 4, 4]
    metadata["tokenizer.ggml.tokens"].remove("õ")  # the byte 0xF5 of the alphabet, which no UTF-8 holds
    metadata["tokenizer.ggml.token_type"].pop(0)
    metadata["tokenizer.ggml.eos_token_id"] = 256
    tokenizer = Tokenizer.from_gguf_metadata(metadata, "test")
    assert 257 in tokenizer.encode("a   b")
    assert tokenizer.token_bytes(258) == "õ".encode()
    assert tokenizer.decode(tokenizer.encode("xõy")) == "xõy"
    assert 258 in tokenizer.encode("xõy")
    assert 259 not in tokenizer.encode("<think>")
    assert tokenizer.encode("<think>", special=True) == [259]
    assert tokenizer.encode("<table>") == [260]
    assert tokenizer.decode([259]) == "<think>", "a marker that is not flagged special is shown"
    assert tokenizer.decode([256]) == ""


def gemma4_metadata() -> dict[str, Any]:
    pieces = ["▁", *"helo wrd".replace(" ", ""), "\n", "he", "ll", "hell", "hello", "▁hello", "\n\n", "▁▁", "<|turn>", "<turn|>", '<|"|>']
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [3, 3, 3, 2, *[6] * 256, *[1] * (len(pieces) - 3), 3, 3, 4]
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o", "▁ hello", "\n \n", "▁ ▁"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
    }


@pytest.mark.parametrize("text", ["hello  hello\n\n\nworld", " hello", "", "▁", "é hell 🙂\n", "<|turn>hello<turn|>", "a\tb   c"])
def test_gemma_4_is_cut_as_transformers_does(text: str) -> None:
    from transformers import GemmaTokenizer

    metadata = gemma4_metadata()
    tokenizer = Tokenizer.from_gguf_metadata(metadata, "test")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    oracle = GemmaTokenizer({token: id for id, token in enumerate(tokens)}, merges)
    assert tokenizer.encode(text) == [2, *oracle.backend_tokenizer.encode(text, add_special_tokens=False).ids]
    assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text.replace("▁", " ")
    assert tokenizer.encode(f"<|turn>{text}", special=True)[:2] == [2, tokens.index("<|turn>")]
    assert tokenizer.eos_ids == {1, tokens.index("<turn|>")}


def test_a_merge_that_leads_to_a_control_token_is_not_taken() -> None:
    metadata = gpt2_metadata()
    metadata["tokenizer.ggml.merges"] = ["a b"]
    metadata["tokenizer.ggml.token_type"] = [1] * 256 + [3, 3]
    tokenizer = Tokenizer.from_gguf_metadata(metadata, "test")
    assert 256 not in tokenizer.encode("ab")
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


def test_empty_tokens_are_kept_apart() -> None:
    metadata = gpt2_metadata()
    metadata["tokenizer.ggml.tokens"] += ["", ""]
    metadata["tokenizer.ggml.token_type"] = [1] * 257 + [3, 5, 5]
    tokenizer = Tokenizer.from_gguf_metadata(metadata, "test")
    assert tokenizer.decode(tokenizer.encode("ab ab")) == "ab ab"
    assert tokenizer.vocab_size == 260


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"tokenizer.ggml.pre": "made-up"}, UnsupportedModelError, "made-up"),
        ({"tokenizer.ggml.model": "rwkv"}, UnsupportedModelError, "rwkv"),
        ({"tokenizer.ggml.model": None}, ModelFileError, "tokenizer.ggml.model is missing"),
        ({"tokenizer.ggml.tokens": None}, ModelFileError, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, ModelFileError, "'a' stands twice"),
        ({"tokenizer.ggml.merges": None}, ModelFileError, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.merges": ["a zz"]}, ModelFileError, "merge 0"),
        ({"tokenizer.ggml.merges": ["ab"]}, ModelFileError, "merge 0"),
        ({"tokenizer.ggml.token_type": [1]}, ModelFileError, "258 numbers"),
        ({"tokenizer.ggml.eos_token_id": 258}, ModelFileError, "eos_token_id is 258"),
        ({"tokenizer.ggml.bos_token_id": -1}, ModelFileError, "bos_token_id is -1"),
        ({"tokenizer.ggml.add_bos_token": True}, ModelFileError, "no bos_token_id"),
    ],
)
def test_metadata_that_is_wrong_is_refused_by_name(change: dict[str, object], error: type[Exception], says: str) -> None:
    metadata = {key: value for key, value in {**gpt2_metadata(), **change}.items() if value is not None}
    with pytest.raises(error, match=says) as caught:
        Tokenizer.from_gguf_metadata(metadata, "model.gguf")
    assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize("token", ["<0x-1>", "<0x1>", "0x41", "<0xG0>"])
def test_a_byte_token_that_is_none_is_refused(token: str) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "a", token],
        "tokenizer.ggml.scores": np.zeros(3, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 1, 6], np.int32),
    }
    with pytest.raises(ModelFileError, match="token 2 is typed as a byte"):
        Tokenizer.from_gguf_metadata(metadata, "model.gguf")


def test_every_pre_tokenizer_name_loads_and_round_trips() -> None:
    from linnet.text.tokenizer.pretokenizers import PRE_TOKENIZERS

    for name in PRE_TOKENIZERS:
        tokenizer = Tokenizer.from_gguf_metadata({**gpt2_metadata(), "tokenizer.ggml.pre": name}, name)
        assert tokenizer.decode(tokenizer.encode(CORPUS[:500], bos=False)) == CORPUS[:500], name
