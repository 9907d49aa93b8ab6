"""Tokenizer files that are broken or made to hurt: `ModelFileError` with the file, the place and the reason."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_inputs import byte_level_metadata, save_folder, sentencepiece_metadata, train_sentencepiece

from linnet.errors import ModelFileError
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer import sentencepiece_model as sp

BPE: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
ADDED = {"id": 3, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**BPE, "vocab": {"a": -1, "b": 1, "ab": 2}}},
        {"model": {**BPE, "vocab": {"a": 0, "b": 0, "ab": 2}}},
        {"model": {**BPE, "vocab": {"a": 2**31, "b": 1, "ab": 2}}},
        {"model": {**BPE, "vocab": {"a": 2**70, "b": 1, "ab": 2}}},
        {"model": {**BPE, "merges": ["a c"]}},
        {"model": {**BPE, "merges": ["ab"]}},
        {"model": {**BPE, "merges": 5}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}},
        {"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}},
        {"model": {"type": "Unigram", "vocab": [["a", "x"]], "unk_id": 0}},
        {"model": {"type": "Unknown"}},
        {"added_tokens": [{**ADDED, "id": -1}]},
        {"added_tokens": [{**ADDED, "content": 5}]},
        {"added_tokens": "x"},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////////AAAA"}},
        {"decoder": {"type": "None"}},
    ],
)
def test_a_tokenizer_json_that_is_wrong(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": BPE, **change}))
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: \w+"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a":' * 100_000, "\0" * 100, '{"version": "1.0"}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_json_that_is_none(tmp_path: Path, byte_level: Any, name: str, text: str) -> None:
    folder = save_folder(tmp_path, byte_level)
    (folder / name).write_text(text)
    if text.startswith('{"v') and name in ("tokenizer_config.json", "special_tokens_map.json"):
        Tokenizer(folder)
        return
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        Tokenizer(folder)


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [1],
        {"-1": {"content": "x"}},
        {"abc": {"content": "x"}},
        {"²": {"content": "x"}},
        {"9" * 5000: {"content": "x"}},
        {"99999999": {"content": "x"}},
        {"0": "x"},
        {"0": {}},
        {"0": {"content": 7}},
        {"0": {"content": "x", "lstrip": "yes"}},
    ],
)
def test_a_config_whose_tokens_are_wrong(tmp_path: Path, byte_level: Any, listed: Any) -> None:
    folder = save_folder(tmp_path, byte_level, added_tokens_decoder=listed)
    if not listed:
        Tokenizer(folder)
        return
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json.* id |tokenizer_config\.json.*added_tokens_decoder"):
        Tokenizer(folder)


def test_a_pattern_that_never_ends_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": BPE, "pre_tokenizer": split}))
    with pytest.raises(ModelFileError, match="fails on the text"):
        Tokenizer(tmp_path).encode("a" * 200 + "b")


def test_a_model_file_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    data = train_sentencepiece(vocab_size=400).serialized_model_proto()
    path = tmp_path / "tokenizer.model"
    refused = 0
    for end in [*range(60), *range(60, len(data), 97)]:
        path.write_bytes(data[:end])
        try:
            Tokenizer(path).encode("hello world")
        except ModelFileError as error:
            refused += str(path) in str(error)
    assert refused > 50


def test_mutated_model_files_never_crash(tmp_path: Path) -> None:
    """With a normalization table in them, which the library follows without looking."""
    trained = train_sentencepiece(model_type="unigram", normalization_rule_name="nmt_nfkc", byte_fallback=False, vocab_size=110)
    data = trained.serialized_model_proto()
    draw = np.random.default_rng(0)
    for _ in range(60):
        changed = np.frombuffer(data, np.uint8).copy()
        at = draw.integers(0, len(changed), draw.integers(1, 30))
        changed[at] = draw.integers(0, 256, len(at))
        (tmp_path / "tokenizer.model").write_bytes(changed.tobytes())
        with suppress(ModelFileError):
            Tokenizer(tmp_path / "tokenizer.model").encode("Ｈｅｌｌｏ ﷺ ㍿ ½ “wörld” 你好")


@pytest.mark.parametrize("at", range(0, 1024, 101))
def test_a_normalization_table_that_points_outside_is_refused(at: int) -> None:
    table = bytearray(4 + 1024 + 2)
    table[:4] = (1024).to_bytes(4, "little")
    sp._check_charsmap(bytes(table), "x")
    position = 4 + at // 4 * 4
    table[position : position + 4] = (1 << 28).to_bytes(4, "little")
    with pytest.raises(ModelFileError, match="points outside"):
        sp._check_charsmap(bytes(table), "x")


@pytest.mark.parametrize(
    "table", [b"\1", b"\0" * 8, b"\xff" * 20, (1024).to_bytes(4, "little") + bytes(1024), (2000).to_bytes(4, "little") + bytes(3000)]
)
def test_a_normalization_table_with_wrong_lengths_is_refused(table: bytes) -> None:
    with pytest.raises(ModelFileError, match="wrong lengths"):
        sp._check_charsmap(table, "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": None}, "scores is missing"),
        ({"scores": [1.0]}, "one per token"),
        ({"scores": ["a"] * 400}, "must be a list of numbers"),
        ({"scores": np.full(400, np.nan)}, "holds nan for token 0"),
        ({"scores": np.full(400, np.inf)}, "holds inf"),
        ({"token_type": "abc"}, "one per token"),
        ({"token_type": np.full(400, 99)}, "99"),
        ({"token_type": np.full(400, -1)}, "-1"),
        ({"unknown_token_id": 400}, "unknown_token_id is 400"),
        ({"tokens": [5] * 400}, "list of texts"),
    ],
)
@pytest.mark.parametrize("model", ["llama", "t5"])
def test_gguf_lists_that_are_wrong(model: str, change: dict[str, Any], says: str) -> None:
    metadata = {**sentencepiece_metadata(train_sentencepiece(vocab_size=400)), "tokenizer.ggml.model": model}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(ModelFileError, match=says) as caught:
        Tokenizer.from_gguf_metadata({key: value for key, value in metadata.items() if value is not None}, "model.gguf")
    assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(255)], "not every byte"),
        (["IQ== 0", "!!! 1"], "line 2"),
        (["IQ== 0", "IQ== x"], "line 2"),
        (["IQ== 0", "IQ=="], "line 2"),
        (["IQ== 0", "IQ== -1"], "line 2|not every byte"),
        ([f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)], "256 ranks"),
    ],
)
def test_a_tiktoken_file_that_is_wrong(tmp_path: Path, lines: list[str], says: str) -> None:
    (tmp_path / "x.tiktoken").write_text("\n".join(lines))
    with pytest.raises(ModelFileError, match=says) as caught:
        Tokenizer(tmp_path / "x.tiktoken")
    assert "x.tiktoken" in str(caught.value)


def test_ranks_that_have_a_hole_are_refused(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [f"token {i}".encode() for i in range(50_000)]
    lines = [base64.b64encode(token) + f" {rank + (rank > 500)}".encode() for rank, token in enumerate(tokens)]
    (tmp_path / "x.tiktoken").write_bytes(b"\n".join(lines))
    with pytest.raises(ModelFileError, match="rank 501 is missing"):
        Tokenizer(tmp_path / "x.tiktoken")


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TABLE = base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + b"b" * 5000 + b"\0").decode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 40}}, "times as long"),
        ({"normalizer": {**REPLACE, "content": "b" * 20_000}}, "times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "b" * 99}] * 40}}, "times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": TABLE}}, "times as long"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}] * 40}},
            "times as long",
        ),
        ({"added_tokens": [{**ADDED, "id": 3 + i, "content": f"<{i}>"} for i in range(70_000)]}, "70000 added tokens"),
        ({"added_tokens": [{**ADDED, "content": f"<{'x' * 2**20}>"}]}, "1048578 characters"),
    ],
)
def test_a_tokenizer_json_that_grows_without_bound(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": BPE, **change}))
    with pytest.raises(ModelFileError, match=rf"tokenizer\.json: .*{reason}"):
        Tokenizer(tmp_path)


def test_more_added_tokens_in_a_gguf_than_are_matched(byte_level: Any) -> None:
    metadata = byte_level_metadata(byte_level)
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], f"<{'x' * 2**20}>"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 3]
    with pytest.raises(ModelFileError, match=r"x\.gguf: \d+ added tokens of \d+ characters"):
        Tokenizer.from_gguf_metadata(metadata, "x.gguf")


@pytest.mark.parametrize("data", [b"\x0a\x03\x0a\x01a" * (sp.MAX_PIECES + 1), b"YQ== 1\n" * 2_500_000], ids=["pieces", "a large file"])
def test_a_model_file_of_more_than_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"tokenizer\.model: .*(more than \d+ pieces|bytes)"):
        Tokenizer(tmp_path)


def test_a_panic_inside_the_library_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyO3's PanicException is no Exception; merges that a fuzzer found bring it about."""
    import tokenizers

    class PanicError(BaseException):
        pass

    def panic(*arguments: object, **options: object) -> None:
        raise PanicError("range end index 4 out of range for slice of length 3")

    monkeypatch.setattr(tokenizers.models, "BPE", panic)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": [],
    }
    with pytest.raises(ModelFileError, match=r"x\.gguf: the vocabulary or its merges cannot be used .*slice of length 3"):
        Tokenizer.from_gguf_metadata(metadata, "x.gguf")
