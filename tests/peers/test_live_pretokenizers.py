"""Every pre-tokenizer name beside llama.cpp itself, on one vocabulary; run by `make test-peers`."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from linnet.load.gguf import read_gguf
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer.pretokenizers import PRE_TOKENIZERS

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.peers

VOCABULARY = Path(__file__).resolve().parents[3] / "shared" / "data" / "vocab" / "ggml-vocab-qwen2.gguf"
KEPT = 20_000  # tokens: enough for words of all scripts below, quick to load once per name
WORDS = "a B Hello WORLD helloWorld é ß 你好 こんにちは 한국 Привет مرحبا १२३ 1 22 333 4444 55555 ½ ² Ǆ ʰ ª 中1 a1b2 🦙 😶‍🌫️"
SIGNS = "'s 'S 're 'LL ' '' ! ?! ... $ + <=> ` ^ | ~ _ - — ( ) [ { / // \\ 。 ， #"
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u200b", "\x7f"]
# Here the models' own patterns know combining marks, and llama.cpp's rendering of them does not.
WITHOUT_MARKS = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}
# Here a pattern that looks ahead ends at the piece that an earlier one left, as in the models' own library; llama.cpp looks past it.
WITHOUT_SPACES_BEFORE_DIGITS = {"tiny_aya"}


def texts() -> list[str]:
    draw = random.Random(7)
    return [
        "".join(draw.choices([*WORDS.split(), *SIGNS.split(), *SPACES, "e\u0301", "\u093c"], k=draw.randint(1, 14))) for _ in range(400)
    ]


def write_vocabulary(path: Path, name: str) -> None:
    metadata = read_gguf(VOCABULARY).metadata
    tokens = metadata["tokenizer.ggml.tokens"][:KEPT]
    kept = set(tokens)
    pairs = (merge.split(" ") for merge in metadata["tokenizer.ggml.merges"])
    merges = [f"{left} {right}" for left, right in pairs if {left, right, left + right} <= kept]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([*tokens, "<|end|>"])
    writer.add_token_types([1] * len(tokens) + [3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens))
    for add in (writer.add_block_count, writer.add_head_count, writer.add_head_count_kv):
        add(1)
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(not VOCABULARY.is_file(), reason="../shared/data/vocab is not there")
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_words_are_cut_as_llama_cpp_cuts_them(name: str, tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "vocabulary.gguf", name)
    ours = Tokenizer(tmp_path / "vocabulary.gguf")
    peer = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    for text in texts():
        if name in WITHOUT_MARKS and re.search("[\u0300-\u036f\u093c\ufe0f]", text):
            continue
        if name in WITHOUT_SPACES_BEFORE_DIGITS and re.search(r"\s\s\d", text):
            continue
        assert ours.encode(text, bos=False) == peer.tokenize(text.encode(), add_bos=False, special=False), text
    peer.close()
