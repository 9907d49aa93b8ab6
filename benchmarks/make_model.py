"""Writes a GGUF file with the shape of TinyLlama-1.1B and random weights: something to measure speed on, offline.

The types are those that `llama-quantize ... Q4_0` gives such a model: every matrix Q4_0, the output Q6_K, norms F32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits, punctuation

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

HIDDEN, LAYERS, HEADS, KV_HEADS, FF, VOCAB, CONTEXT = 2048, 22, 32, 4, 5632, 32000, 2048
WEIGHT_STD = 0.02  # as transformers initialises; keeps activations finite through 22 layers

UNKNOWN, CONTROL, BYTE, NORMAL = (
    gguf.TokenType.UNKNOWN,
    gguf.TokenType.CONTROL,
    gguf.TokenType.BYTE,
    gguf.TokenType.NORMAL,
)


def random_q4_0(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random Q4_0 blocks, uint8 [rows, columns / 32 * 18]: f16 scale, then 32 nibbles, each worth (n - 8) * scale."""
    blocks = rng.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
    scale = np.float16(WEIGHT_STD / 4.6)  # 4.6: standard deviation of a uniform nibble
    blocks[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def random_q6_k(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random Q6_K blocks, uint8 [rows, columns / 256 * 210]: 192 bytes of 6-bit values, 16 int8 scales, one f16 scale."""
    blocks = rng.integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., 192:208] = rng.integers(1, 9, (rows, columns // 256, 16), dtype=np.uint8)
    scale = np.float16(WEIGHT_STD / (18.5 * 4.5))  # 18.5: deviation of a uniform 6-bit value; 4.5: mean sub-scale
    blocks[..., 208:] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def pieces() -> Iterator[tuple[str, gguf.TokenType]]:
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


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """The tokenizer's keys; a piece that comes earlier scores higher, as in trained SentencePiece BPE models."""
    vocabulary = list(islice(pieces(), VOCAB))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _ in vocabulary])
    writer.add_token_scores([float(-index) for index in range(len(vocabulary))])
    writer.add_token_types([kind for _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def add_hyperparameters(writer: gguf.GGUFWriter) -> None:
    writer.add_name("random weights in the shape of TinyLlama-1.1B")
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)


def add_tensors(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    ones = np.ones(HIDDEN, np.float32)
    kv_width = HIDDEN // HEADS * KV_HEADS

    def q4_0(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random_q4_0(rng, rows, columns), raw_dtype=Type.Q4_0)

    q4_0("token_embd.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        q4_0(block + "attn_q.weight", HIDDEN, HIDDEN)
        q4_0(block + "attn_k.weight", kv_width, HIDDEN)
        q4_0(block + "attn_v.weight", kv_width, HIDDEN)
        q4_0(block + "attn_output.weight", HIDDEN, HIDDEN)
        writer.add_tensor(block + "ffn_norm.weight", ones)
        q4_0(block + "ffn_gate.weight", FF, HIDDEN)
        q4_0(block + "ffn_up.weight", FF, HIDDEN)
        q4_0(block + "ffn_down.weight", HIDDEN, FF)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", random_q6_k(rng, VOCAB, HIDDEN), raw_dtype=Type.Q6_K)


def make_model(path: Path, seed: int = 0) -> None:
    """Writes the file (about 640 MB, a few seconds); the same seed gives the same bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    add_hyperparameters(writer)
    add_vocabulary(writer)
    add_tensors(writer, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_model(arguments.path, arguments.seed)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
