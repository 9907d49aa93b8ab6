"""Vocabularies in GGUF metadata whose lists, ids and tokens contradict each other."""

from __future__ import annotations

import pytest
from hostile_files import ARRAY, BOOL, F32, I8, I32, STRING, TOKENS, U32, Bytes, gguf, model_pairs, model_tensors

TENSORS = model_tensors(["f32"])
COUNT = len(TOKENS)


def changed(key: str, kind: int, value: object, tokenizer: str = "gpt2") -> Bytes:
    name = f"tokenizer.ggml.{key}".encode()
    return gguf([*(pair for pair in model_pairs(tokenizer=tokenizer) if pair[0] != name), (name, kind, value)], TENSORS)


def without(key: str, tokenizer: str = "gpt2") -> Bytes:
    return gguf([pair for pair in model_pairs(tokenizer=tokenizer) if pair[0] != f"tokenizer.ggml.{key}".encode()], TENSORS)


def pieces(first: bytes) -> list[bytes]:
    """The SentencePiece vocabulary with another token in the place of byte 0."""
    found = next(value[1] for key, _, value in model_pairs(tokenizer="llama") if key.endswith(b".tokens"))
    return [*found[:3], first, *found[4:]]


CASES = {
    "an id of -1": (changed("eos_token_id", I32, -1), "eos_token_id"),
    "an id of 2^32 - 1": (changed("bos_token_id", U32, 2**32 - 1), "bos_token_id"),
    "an id that is past the last": (changed("bos_token_id", U32, COUNT), "bos_token_id"),
    "an id in a list": (changed("eos_token_id", ARRAY, (U32, [1])), "eos_token_id"),
    "an id with a fraction": (changed("bos_token_id", F32, 1.5), "bos_token_id"),
    "an unknown kind": (changed("model", STRING, b"\xff\xff"), r"tokenizer\.ggml\.model"),
    "a kind that is a number": (changed("model", U32, 1), r"tokenizer\.ggml\.model"),
    "an unknown way to cut words": (changed("pre", STRING, b"x" * 10_000), "pre"),
    "a way to cut words that is a list": (changed("pre", ARRAY, (U32, [])), "pre"),
    "no tokens": (without("tokens"), r"tokenizer\.ggml\.tokens"),
    "tokens that are numbers": (changed("tokens", ARRAY, (U32, [1] * COUNT)), r"tokenizer\.ggml\.tokens"),
    "tokens that are lists": (changed("tokens", ARRAY, (ARRAY, [(U32, [1])] * COUNT)), r"tokenizer\.ggml\.tokens. is an array of arrays"),
    "an id in a list of lists": (changed("eos_token_id", ARRAY, (ARRAY, [(U32, [1])])), "eos_token_id. is an array of arrays"),
    "types that are lists": (changed("token_type", ARRAY, (ARRAY, [(I32, [1])] * COUNT)), "token_type"),
    "tokens that are one text": (changed("tokens", STRING, b"abc"), r"tokenizer\.ggml\.tokens"),
    "a token twice": (changed("tokens", ARRAY, (STRING, [b"same"] * COUNT)), "twice"),
    "no merges": (without("merges"), r"tokenizer\.ggml\.merges"),
    "a merge of one part": (changed("merges", ARRAY, (STRING, [b"he"])), "merge"),
    "a merge of what is not there": (changed("merges", ARRAY, (STRING, [b"zz qq"])), "merge"),
    "merges that are numbers": (changed("merges", ARRAY, (I8, [1])), r"tokenizer\.ggml\.merges"),
    "one type too few": (changed("token_type", ARRAY, (I32, [1] * (COUNT - 1))), "token_type"),
    "types with fractions": (changed("token_type", ARRAY, (F32, [1.5] * COUNT)), "unknown type 1.5"),
    "a kind that is a list": (changed("model", ARRAY, (U32, [1, 2])), r"tokenizer\.ggml\.model"),
    "flags in a list": (changed("add_bos_token", ARRAY, (BOOL, [1, 0])), "add_bos_token is a ndarray; true or false"),
    "a flag that is a text": (changed("add_space_prefix", STRING, b"no", "llama"), "add_space_prefix is a str; true or false"),
    "types that are texts": (changed("token_type", STRING, b"x" * COUNT), "token_type"),
    "no scores": (without("scores", "llama"), "scores"),
    "one score too many": (changed("scores", ARRAY, (F32, [0.0] * (COUNT + 1)), "llama"), "scores"),
    "scores that are texts": (changed("scores", ARRAY, (STRING, [b"1"] * COUNT), "llama"), "scores"),
    "the byte <0x-1>": (changed("tokens", ARRAY, (STRING, pieces(b"<0x-1>")), "llama"), "<0x-1>|0x00|byte"),
    "the byte <0x100>": (changed("tokens", ARRAY, (STRING, pieces(b"<0x100>")), "llama"), "<0x100>|0x00|byte"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case, refused, tmp_path):
    built, pattern = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(built.data)
    refused(path, pattern, action="use")
    refused(path, pattern, action="tokenize")
