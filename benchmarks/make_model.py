"""Writes a GGUF file with the shape of a published model and random weights: something to measure speed on, offline.

Types are those that `llama-quantize` gives such a model, norms and biases F32; the vocabulary is made up.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits, punctuation

import gguf
import numpy as np
from random_blocks import RANDOM
from shapes import FILE_TYPES, SHAPES, Shape, matrix_type

UNKNOWN, CONTROL, BYTE, NORMAL = (
    gguf.TokenType.UNKNOWN,
    gguf.TokenType.CONTROL,
    gguf.TokenType.BYTE,
    gguf.TokenType.NORMAL,
)


def sentencepiece_pieces() -> Iterator[tuple[str, gguf.TokenType]]:
    """A SentencePiece-style vocabulary without end: specials, bytes, characters, then made-up pieces by length,
    so that every piece is the merge of two earlier ones."""
    yield from (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
    yield from ((f"<0x{byte:02X}>", BYTE) for byte in range(256))
    yield from ((character, NORMAL) for character in "▁" + ascii_lowercase + ascii_uppercase + digits + punctuation)
    for length in (1, 2, 3):
        for letters in product(ascii_lowercase, repeat=length):
            yield "▁" + "".join(letters), NORMAL
            if length > 1:
                yield "".join(letters), NORMAL


def add_sentencepiece_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """A piece that comes earlier scores higher, as in trained SentencePiece BPE models."""
    vocabulary = list(islice(sentencepiece_pieces(), size))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _ in vocabulary])
    writer.add_token_scores([float(-index) for index in range(len(vocabulary))])
    writer.add_token_types([kind for _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE: printable Latin-1 for itself, the others from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(256 + index) for index in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def add_byte_level_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """One end token, the bytes, then made-up pieces by length, each the merge of the piece without its last letter and that letter."""
    pieces = ("".join(letters) for length in (2, 3, 4) for letters in product(ascii_lowercase, repeat=length))
    merged = list(islice(pieces, size - 257))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*byte_characters(), *merged, "<|endoftext|>"])
    writer.add_token_types([NORMAL] * (size - 1) + [CONTROL])
    writer.add_token_merges([f"{piece[:-1]} {piece[-1]}" for piece in merged])
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def add_hyperparameters(writer: gguf.GGUFWriter, shape: Shape, file_type: str) -> None:
    writer.add_name(f"random weights in the shape of {shape.name}")
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_file_type(FILE_TYPES[file_type][0])


def add_tensors(writer: gguf.GGUFWriter, shape: Shape, file_type: str, random: np.random.Generator) -> None:
    ones = np.ones(shape.hidden, np.float32)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(shape.layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
    for name, (rows, columns) in shape.matrices().items():
        type = matrix_type(shape, name, file_type)
        data = RANDOM[type](random, rows, columns)
        if type is gguf.GGMLQuantizationType.F16:
            writer.add_tensor(f"{name}.weight", data.view(np.float16))
        else:
            writer.add_tensor(f"{name}.weight", data, raw_dtype=type)
        if shape.biased and name.endswith(("attn_q", "attn_k", "attn_v")):
            writer.add_tensor(f"{name}.bias", random.normal(0, 0.02, rows).astype(np.float32))


def make_model(path: Path, shape: Shape, file_type: str, seed: int = 0) -> None:
    """Writes the file, whole or not at all; the same seed gives the same bytes. Raises ValueError for a type that the shape cannot have."""
    for name in shape.matrices():
        matrix_type(shape, name, file_type)
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, shape.architecture)
    add_hyperparameters(writer, shape, file_type)
    add_vocabulary = add_sentencepiece_vocabulary if shape.architecture == "llama" else add_byte_level_vocabulary
    add_vocabulary(writer, shape.vocab)
    add_tensors(writer, shape, file_type, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the file to write, or a folder, in which it is named SHAPE-TYPE.gguf")
    parser.add_argument("--type", choices=FILE_TYPES, default="q4_0")
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = arguments.path / f"{arguments.shape}-{arguments.type}.gguf" if arguments.path.is_dir() else arguments.path
    try:
        make_model(path, SHAPES[arguments.shape], arguments.type, arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
