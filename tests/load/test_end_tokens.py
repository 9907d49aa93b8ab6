"""Texts that end an answer, against llama.cpp."""

from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest

from linnet.load.checkpoint import _gguf_ends
from linnet.load.end_tokens import END_TEXTS, end_texts
from linnet.load.gguf import read_gguf
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer.byte_level import CHARACTER_OF

BYTES = [CHARACTER_OF[byte] for byte in range(256)]


def vocabulary(path: Path, texts: list[str], closes: bool = False) -> list[str]:
    """A vocabulary of bytes and these texts in GGUF, none of them a control token or named by the metadata."""
    tokens = [*BYTES, "ab", "<|other|>", *texts]
    writer = gguf.GGUFWriter(path, "llama")
    for size in ("context_length", "embedding_length", "block_count", "head_count", "feed_forward_length"):
        getattr(writer, f"add_{size}")(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * 257 + [4] * (len(tokens) - 257))
    writer.add_eos_token_id(257)
    writer.add_add_eos_token(closes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return tokens


@pytest.mark.parametrize("texts", [list(END_TEXTS), [text for text in END_TEXTS if text != "<|end|>"], ["<|end|>"]], ids=len)
def test_what_ends_an_answer_ends_it_in_llama_cpp(texts: list[str], tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
    tokens = vocabulary(tmp_path / "v.gguf", texts)
    peer = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    known = llama_cpp.llama_model_get_vocab(peer.model)
    theirs = {token for id, token in enumerate(tokens) if llama_cpp.llama_vocab_is_eog(known, id)}
    assert theirs == {"<|other|>", *end_texts(tokens)}


def test_every_token_of_a_text_that_ends_an_answer_ends_it(tmp_path: Path) -> None:
    """Of two with one text the control token is mostly the first, and what a vocabulary repeats is ordinary."""
    tokens = ["<|im_end|>", "b", "<|im_end|>", "</s>", "</s>", "<|eot_id|>"]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 1, 1, 3, 1, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    spec = SimpleNamespace(vocab_size=5)  # the last token has no row
    assert set(_gguf_ends(read_gguf(tmp_path / "v.gguf"), spec)) == {0, 2, 3}  # type: ignore[arg-type]


@pytest.mark.parametrize("closes", [False, True])
def test_a_text_that_is_read_ends_as_in_llama_cpp(closes: bool, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
    vocabulary(tmp_path / "v.gguf", [], closes)
    peer = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    ours = Tokenizer(tmp_path / "v.gguf")
    assert ours.encode_closed("abba") == peer.tokenize(b"abba", add_bos=True)
    assert ours.encode("abba") == ours.encode_closed("abba")[: -1 if closes else None]
