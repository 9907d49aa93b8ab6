"""Every kind of tokenizer over random texts of all scripts, beside the library that its publisher uses: ids, texts, streams."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_tokenizer_json import llama_style
from text_inputs import SHARED, save_folder, train_sentencepiece
from vocabularies import ALL_SCRIPTS, bert_metadata, random_texts, unigram, word_level, word_piece, write_gguf

from linnet.load.gguf import read_gguf
from linnet.text.detokenize import StreamDecoder
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer.byte_level import token_bytes

QUICK, MANY = 2_000, 100_000
VOCABULARIES = SHARED / "data" / "vocab"


@dataclass
class Pair:
    """Our tokenizer and functions of the other library: text -> ids, ids -> text (None: it has none that compares)."""

    ours: Tokenizer
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str] | None
    special: bool = False  # whether the other library matches control tokens in texts
    assigned_only: bool = False  # compare only characters that Python's Unicode knows: the other library's may be newer
    merges_spaces: bool = False  # whether the other library takes a `▁` that someone wrote for one of the spaces it merges


def by_transformers(folder: Path) -> Pair:
    from transformers import PreTrainedTokenizerFast

    peer: Any = PreTrainedTokenizerFast.from_pretrained(folder)  # type: ignore[no-untyped-call]
    return Pair(
        Tokenizer(folder),
        lambda text: list(peer.encode(text, add_special_tokens=False)),
        lambda ids: str(peer.decode(ids, clean_up_tokenization_spaces=False)),
        special=True,
    )


def sentencepiece_pair(folder: Path, **options: Any) -> Pair:
    processor = train_sentencepiece(**options)
    (folder / "tokenizer.model").write_bytes(processor.serialized_model_proto())
    decode = processor.decode if processor.is_byte(processor.piece_to_id("<0x41>")) else None
    merges_spaces = bool(options.get("remove_extra_whitespaces"))
    return Pair(Tokenizer(folder / "tokenizer.model"), processor.encode, decode, merges_spaces=merges_spaces)


def tiktoken_pair(folder: Path, vocabulary: str, ranks: int, pattern: str, composed: bool = False) -> Pair:
    tiktoken = pytest.importorskip("tiktoken")
    path = VOCABULARIES / f"ggml-vocab-{vocabulary}.gguf"
    if not path.is_file():
        pytest.skip("../shared/data/vocab is not there")
    file = folder / "ranks.tiktoken"
    table = write_ranks(file, path, ranks)
    peer = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=table, special_tokens={})
    return Pair(Tokenizer(file), lambda text: peer.encode_ordinary(unicodedata.normalize("NFC", text) if composed else text), peer.decode)


def write_ranks(file: Path, vocabulary: Path, count: int) -> dict[bytes, int]:
    """A tiktoken file with the first tokens of a byte-level GGUF vocabulary, whose ids are ranks."""
    import base64

    tokens = [token_bytes(token) for token in read_gguf(vocabulary).metadata["tokenizer.ggml.tokens"][:count]]
    file.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens)))
    return {token: rank for rank, token in enumerate(tokens)}


def llama_cpp_pair(path: Path) -> Pair:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
    if not path.is_file():
        pytest.skip("../shared/data/vocab is not there")
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ours = Tokenizer(path)
    return Pair(ours, lambda text: list(peer.tokenize(text.encode(), add_bos=False, special=False)), None, assigned_only=True)


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NMT = {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True, "byte_fallback": False}
KINDS: dict[str, Callable[[Path, Any], Pair]] = {
    "json byte-level": lambda folder, byte_level: by_transformers(save_folder(folder, byte_level)),
    "json llama": lambda folder, _: by_transformers(save_folder(folder, llama_style(), bos_token="<s>", unk_token="<unk>")),
    "json unigram": lambda folder, _: by_transformers(save_folder(folder, unigram(), eos_token="</s>", unk_token="<unk>")),
    "json word pieces": lambda folder, _: by_transformers(save_folder(folder, word_piece(), cls_token="[CLS]", unk_token="[UNK]")),
    "json words": lambda folder, _: by_transformers(save_folder(folder, word_level(), unk_token="[UNK]")),
    "model bpe": lambda folder, _: sentencepiece_pair(folder),
    "model normalizing bpe": lambda folder, _: sentencepiece_pair(folder, normalization_rule_name="nfkc", remove_extra_whitespaces=True),
    "model unigram": lambda folder, _: sentencepiece_pair(folder, **NMT, vocab_size=110),
    "model unigram with bytes": lambda folder, _: sentencepiece_pair(folder, model_type="unigram", vocab_size=360),
    "tiktoken qwen": lambda folder, _: tiktoken_pair(folder, "qwen2", 151643, QWEN, composed=True),
    "tiktoken gpt2": lambda folder, _: tiktoken_pair(folder, "gpt-2", 50256, GPT2),
    "gguf sentencepiece": lambda folder, _: llama_cpp_pair(VOCABULARIES / "ggml-vocab-llama-spm.gguf"),
    "gguf word pieces": lambda folder, _: llama_cpp_pair(write_gguf(folder / "bert.gguf", bert_metadata(), "bert")),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, byte_level: Any) -> Pair:
    return KINDS[request.param](tmp_path_factory.mktemp("kind"), byte_level)


def check(pair: Pair, texts: list[str]) -> None:
    for text in texts:
        if pair.assigned_only and any(unicodedata.category(character) == "Cn" for character in text):
            continue
        ids = pair.ours.encode(text, bos=False, special=pair.special)
        assert ids == pair.encode(text), repr(text)
        stream = StreamDecoder(pair.ours, skip_special=False)
        decoded = pair.ours.decode(ids, skip_special=False)
        assert "".join([stream.push([id]) for id in ids]) + stream.finish() == decoded, repr(text)
        if pair.decode is not None and not (pair.merges_spaces and "▁" in text):
            assert decoded == pair.decode(ids), repr(text)


def test_random_texts_give_the_same_ids_and_come_back_alike(pair: Pair) -> None:
    check(pair, random_texts(QUICK))


@pytest.mark.slow
def test_a_hundred_thousand_random_texts(pair: Pair) -> None:
    check(pair, random_texts(MANY, seed=1))


def test_long_runs_of_one_character(pair: Pair) -> None:
    check(pair, [character * 20_000 for character in ("a", " ", "é", "\n", "🦙", "1", "ab", "!", "\u0301", "▁")])


def test_no_random_text_becomes_a_control_token(pair: Pair) -> None:
    control = {pair.ours.id_to_token(id): id for id in pair.ours.control_ids}
    unknown = {"<unk>", "[UNK]"}
    for text in [*random_texts(300, seed=2), *(text for text in control if text is not None)]:
        found = {pair.ours.id_to_token(id) for id in pair.ours.encode(text, bos=False)}
        assert found & control.keys() <= unknown, repr(text)


def test_all_scripts_are_drawn() -> None:
    drawn = set("".join(random_texts(QUICK)))
    for low, high in ALL_SCRIPTS:
        assert drawn & set(map(chr, range(low, high + 1)))


def test_the_word_pieces_of_a_word_are_joined_when_streamed(tmp_path: Path) -> None:
    ours = Tokenizer(save_folder(tmp_path, word_piece(), cls_token="[CLS]"))
    ids = ours.encode("The quick Brown fox, isn't lazy.")
    assert ids[0] == ours.token_to_id("[CLS]"), "what the post-processor puts in front"
    stream = StreamDecoder(ours)
    assert "".join(stream.push([id]) for id in ids) + stream.finish() == ours.decode(ids)
    assert ours.decode(ids).startswith("the quick brown fox, ")


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_text_after_a_control_token_gets_no_second_space(tmp_path: Path, scheme: str) -> None:
    """What a chat's pieces give is what the whole text gives, also where the start of a text is special."""
    peer = json.loads(unigram().to_str())
    peer["pre_tokenizer"]["prepend_scheme"] = peer["decoder"]["prepend_scheme"] = scheme
    tokenizer = type(unigram()).from_str(json.dumps(peer))
    tokenizer.add_special_tokens(["<turn>"])
    ours = Tokenizer(save_folder(tmp_path, tokenizer, unk_token="<unk>"))
    template = "<turn>{{ messages[0].content }}<turn>{{ messages[1].content }}"
    messages = [{"role": "user", "content": "lazy dog <fox"}, {"role": "user", "content": "the > fox"}]
    assert ours.apply_chat_template(messages, chat_template=template) == ours.encode("<turn>lazy dog <fox<turn>the > fox", special=True)
