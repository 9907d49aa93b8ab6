"""tiktoken files: what each is known by, its control tokens, the encodings by name, and the library that may be missing."""

from __future__ import annotations

import builtins
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_every_kind import VOCABULARIES, write_ranks

from linnet.errors import MissingDependencyError, ModelFileError
from linnet.load.gguf import read_gguf
from linnet.text.tokenizer import Tokenizer, tiktoken_file

tiktoken = pytest.importorskip("tiktoken")
pytestmark = pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="../shared/data/vocab is not there")

R50K = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("qwen") / "qwen.tiktoken"
    write_ranks(file, VOCABULARIES / "ggml-vocab-qwen2.gguf", 151643)
    return file


def test_qwens_file_gives_the_ids_that_are_recorded_for_qwen(qwen: Path) -> None:
    ours = Tokenizer(qwen.parent)
    recorded = VOCABULARIES / "ggml-vocab-qwen2.gguf"
    texts = Path(f"{recorded}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    for text, line in zip(texts, Path(f"{recorded}.out").read_text().split("\n"), strict=True):
        ids = [int(id) for id in line.split()]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (151643 + 208, None, 151643)
    assert ours.encode("<|im_start|>", special=True) == [151644]
    assert 151644 not in ours.encode("<|im_start|>")
    assert {151643, 151645} <= ours.eos_ids
    assert ours.id_to_token(151645) == "<|im_end|>"
    assert ours.token_to_id("<|im_end|>") == 151645
    assert ours.token_to_id("the") == ours.encode("the")[0]


def test_llama_3_names_its_file_tokenizer_model(tmp_path: Path) -> None:
    """The format is known by the first bytes; the ids are those of the model card."""
    tokens = write_ranks(tmp_path / "tokenizer.model", VOCABULARIES / "ggml-vocab-qwen2.gguf", 128000)
    assert len(tokens) == 128000
    ours = Tokenizer(tmp_path)
    named = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|start_header_id|>": 128006, "<|end_header_id|>": 128007}
    named |= {"<|eom_id|>": 128008, "<|eot_id|>": 128009, "<|python_tag|>": 128010, "<|finetune_right_pad_id|>": 128004}
    assert {text: ours.token_to_id(text) for text in named} == named
    assert ours.vocab_size == 128256
    assert ours.encode("hi")[0] == ours.bos_id == 128000
    assert {128001, 128008, 128009} <= ours.eos_ids
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {"added_tokens_decoder": {"128011": {"content": "<|new|>", "special": True}}, "chat_template": "T", "add_bos_token": False}
        )
    )
    ours = Tokenizer(tmp_path)
    assert ours.encode("<|new|>", special=True) == [128011]
    assert ours.chat_template == "T"


def cached(monkeypatch: pytest.MonkeyPatch, folder: Path, address: str, data: bytes) -> None:
    """As tiktoken leaves a file in its cache; its digest is the one expected."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    (folder / hashlib.sha1(address.encode()).hexdigest()).write_bytes(data)
    monkeypatch.setattr(tiktoken_file, "_NAMED", {"gpt2": ((address, hashlib.sha256(data).hexdigest()),)})


def test_an_encoding_by_name_is_taken_from_tiktokens_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ranks(tmp_path / "file", VOCABULARIES / "ggml-vocab-gpt-2.gguf", 50256)
    cached(monkeypatch, tmp_path, R50K, (tmp_path / "file").read_bytes())
    ours = Tokenizer("gpt2")
    assert ours.encode("Hello world") == [15496, 995]
    assert (ours.eos_id, ours.vocab_size) == (50256, 50257)


def test_gpt2s_own_file_is_the_same_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges = read_gguf(VOCABULARIES / "ggml-vocab-gpt-2.gguf").metadata["tokenizer.ggml.merges"]
    data = "\n".join(["#version: 0.2", *merges, ""]).encode()
    assert hashlib.sha256(data).hexdigest() == tiktoken_file._NAMED["gpt2"][1][1], "this is OpenAI's file, byte by byte"
    cached(monkeypatch, tmp_path, tiktoken_file._NAMED["gpt2"][1][0], data)
    assert Tokenizer("gpt2").encode("Hello world, naïve 🦙") == tiktoken_by_ranks(tmp_path).encode_ordinary("Hello world, naïve 🦙")


def tiktoken_by_ranks(folder: Path) -> Any:
    ranks = write_ranks(folder / "ranks", VOCABULARIES / "ggml-vocab-gpt-2.gguf", 50256)
    return tiktoken.Encoding("peer", pat_str=tiktoken_file._GPT2, mergeable_ranks=ranks, special_tokens={})


@pytest.mark.parametrize("name", sorted(tiktoken_file.ENCODING_NAMES))
def test_an_encoding_that_is_not_at_hand_is_never_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelFileError, match=f"{name} is not in .*download https://"):
        Tokenizer(name)
    for address, _ in tiktoken_file._NAMED[name]:
        (tmp_path / hashlib.sha1(address.encode()).hexdigest()).write_bytes(b"IQ== 0\n")
    with pytest.raises(ModelFileError, match="SHA-256"):
        Tokenizer(name)


@pytest.mark.parametrize("name", sorted(tiktoken_file.ENCODING_NAMES))
def test_patterns_and_control_tokens_are_tiktokens_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own definitions, asked without their files."""
    public = pytest.importorskip("tiktoken_ext.openai_public")
    asked: list[tuple[str, str]] = []

    def ranks(address: str, expected_hash: str) -> dict[bytes, int]:
        asked.append((address, expected_hash))
        return {}

    def older_ranks(vocab_bpe_file: str, vocab_bpe_hash: str, **_: str) -> dict[bytes, int]:
        return ranks(vocab_bpe_file, vocab_bpe_hash)

    monkeypatch.setattr(public, "load_tiktoken_bpe", ranks)
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", older_ranks)
    theirs = public.ENCODING_CONSTRUCTORS[name]()
    sizes = {"gpt2": 50256, "r50k_base": 50256, "p50k_base": 50280, "cl100k_base": 100256, "o200k_base": 199998}
    ours = tiktoken_file._BY_RANKS[sizes[name]]
    assert ours.pattern == theirs["pat_str"]
    assert ours.special == {id: text for text, id in theirs["special_tokens"].items()}
    assert set(asked) <= set(tiktoken_file._NAMED[name])


def test_without_the_library_the_message_is_the_command(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "tiktoken":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'linnet\[tiktoken\]'"):
        Tokenizer(qwen)
