"""nanochat's tokenizer.pkl against the `tiktoken` encoding that was pickled, and its conversations against nanochat's rules."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from text_inputs import CORPUS

from linnet.errors import ChatTemplateError, MissingDependencyError, ModelFileError, UnsupportedModelError
from linnet.text.tokenizer import Tokenizer

tiktoken = pytest.importorskip("tiktoken")

SPECIAL = (
    "<|bos|> <|user_start|> <|user_end|> <|assistant_start|> <|assistant_end|> "
    "<|python_start|> <|python_end|> <|output_start|> <|output_end|>"
).split()
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
MERGES = [b"he", b"ll", b"hell", b"hello", b" w", b"or", b" wor", b"12", b"\xc3\xa9"]


def encoding(**changed: Any) -> Any:
    """As nanochat makes it: bytes and merges, then the special tokens."""
    ranks = {bytes([i]): i for i in range(256)} | {token: 256 + i for i, token in enumerate(MERGES)}
    parts = {"pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": {text: len(ranks) + i for i, text in enumerate(SPECIAL)}}
    return tiktoken.Encoding("rustbpe", **(parts | changed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(encoding()))
    return tmp_path


def test_texts_are_what_the_encoding_makes_of_them(folder: Path) -> None:
    theirs, ours = encoding(), Tokenizer(folder)
    assert ours.vocab_size == theirs.n_vocab
    for text in (CORPUS[:400], "", " ", "hello", "a\r\n\n  b  ", "🙂\u0301é<|bos|>"):
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text, bos=False) == ids
        assert ours.encode(text) == [theirs.encode_single_token("<|bos|>"), *ids]
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.encode("<|bos|>", bos=False) == theirs.encode_ordinary("<|bos|>")
    assert ours.encode("<|python_start|>1", bos=False, special=True) == theirs.encode("<|python_start|>1", allowed_special="all")
    assert ours.eos_ids == {theirs.encode_single_token("<|assistant_end|>"), theirs.encode_single_token("<|bos|>")}


def rendered(messages: list[dict[str, str]]) -> list[int]:
    """nanochat's rules: a system message is merged into the user message after it; each turn stands between its own two tokens; the
    answer comes after <|assistant_start|>."""
    made = encoding()
    if messages[0]["role"] == "system":
        first = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
        messages = [first, *messages[2:]]
    ids = [made.encode_single_token("<|bos|>")]
    for message in messages:
        start, end = (made.encode_single_token(f"<|{message['role']}_{side}|>") for side in ("start", "end"))
        ids += [start, *made.encode_ordinary(message["content"]), end]
    return [*ids, made.encode_single_token("<|assistant_start|>")]


SYSTEM, HELLO, ANSWER, MORE = (
    {"role": "system", "content": "Be  kind.\n"},
    {"role": "user", "content": "hello <|user_end|> world "},
    {"role": "assistant", "content": " 1212"},
    {"role": "user", "content": "\nCafé <|bos|>"},
)


@pytest.mark.parametrize("messages", [[HELLO], [SYSTEM, HELLO], [HELLO, ANSWER, MORE], [SYSTEM, HELLO, ANSWER, MORE]])
def test_a_conversation_is_rendered_by_nanochats_rules(messages: list[dict[str, str]], folder: Path) -> None:
    assert Tokenizer(folder).apply_chat_template(messages) == rendered(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([SYSTEM], "merges a system message into the user message after it"),
        ([SYSTEM, ANSWER], "merges a system message"),
        ([HELLO, HELLO], "this one is of user"),
        ([ANSWER], "this one is of assistant"),
        ([HELLO, {"role": "tool", "content": "x"}], "this one is of tool"),
    ],
)
def test_other_turns_are_refused(messages: list[dict[str, str]], message: str, folder: Path) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        Tokenizer(folder).apply_chat_template(messages)


def test_an_encoding_without_the_special_tokens_has_no_chat(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(encoding(special_tokens={"<|endoftext|>": 500})))
    tokenizer = Tokenizer(tmp_path / "tokenizer.pkl")
    assert tokenizer.chat_template is None
    assert tokenizer.eos_ids == {500}
    assert tokenizer.encode("hello") == [259]


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class Encoding:
    """Another class of that name."""


def test_another_class_is_named_and_nothing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(ModelFileError, match=r"tokenizer\.pkl: its pickle names '(posix|nt)\.mkdir', but only tiktoken encodings are read"):
        Tokenizer(path)
    assert not (tmp_path / "canary").exists()
    path.write_bytes(pickle.dumps(Encoding()))
    with pytest.raises(ModelFileError, match=r"names 'test_pickled_encoding\.Encoding'"):
        Tokenizer(path)


def test_an_encoding_that_is_pickled_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tiktoken pickles those of its registry."""
    import tiktoken.registry

    for name, error, message in (("made-up", UnsupportedModelError, "'made-up' is not known"), ("gpt2", ModelFileError, "gpt2 is not in")):
        named = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={})
        monkeypatch.setitem(tiktoken.registry.ENCODINGS, name, named)
        (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(named))
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        with pytest.raises(error, match=message):
            Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "pat_str is no pattern"),
        (lambda state: state.update(pat_str=5), "pat_str is no pattern"),
        (lambda state: state.update(pat_str="(" * 20_000), "pat_str is no pattern"),
        (lambda state: state.update(pat_str="("), "the pattern or the ranks cannot be used"),
        (lambda state: state.update(mergeable_ranks=[1]), "mergeable_ranks is no table from bytes to ids"),
        (lambda state: state["mergeable_ranks"].update({"text": 5000}), "mergeable_ranks is no table from bytes to ids"),
        (lambda state: state["mergeable_ranks"].update({b"x": 2}), "ids that are no distinct numbers"),
        (lambda state: state["mergeable_ranks"].update({b"long": 2**40}), "ids that are no distinct numbers"),
        (lambda state: state["mergeable_ranks"].update({b"long": -1}), "ids that are no distinct numbers"),
        (lambda state: state["mergeable_ranks"].pop(b"x"), "not every byte is a token"),
        (lambda state: state.update(special_tokens={b"x": 1}), "special_tokens is no table from str to ids"),
        (lambda state: state["special_tokens"].update({"<|x|>": 3}), "a rank is a special token too"),
    ],
)
def test_impossible_parts_are_named(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = encoding().__getstate__()
    change(state)
    monkeypatch.setattr(tiktoken.Encoding, "__getstate__", lambda self: state)
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(encoding()))
    with pytest.raises(ModelFileError, match=message):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", pickle.dumps({"a": 1}), pickle.dumps(encoding())[:-100]])
def test_what_is_no_pickled_encoding(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"tokenizer\.pkl: not a pickle"):
        Tokenizer(tmp_path)


def test_without_tiktoken_the_message_is_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'linnet\[tiktoken\]'"):
        Tokenizer(folder)
