"""Model files written byte by byte, so that any of them can lie: whole tiny models as GGUF and as safetensors folders.

`Bytes` remembers where every number stands (and what it is), which is what a fuzzer wants to change.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from linnet.tensors import TYPES

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}

Pair = tuple[bytes, int, Any]
"""A metadata key, its type and its value; an array is (element type, [elements])."""


@dataclass
class Bytes:
    """A file in the making, and the place and struct code of each of its numbers."""

    data: bytearray = field(default_factory=bytearray)
    numbers: list[tuple[int, str]] = field(default_factory=list)

    def number(self, code: str, value: float) -> None:
        self.numbers.append((len(self.data), code))
        self.data += struct.pack("<" + code, value)

    def text(self, value: bytes, length: int | None = None) -> None:
        """`length`: what the file says, where that is to be a lie."""
        self.number("Q", len(value) if length is None else length)
        self.data += value

    def value(self, kind: int, value: Any) -> None:
        if kind == STRING:
            self.text(value)
        elif kind == ARRAY:
            element, values = value
            self.number("I", element)
            self.number("Q", len(values))
            for item in values:
                self.value(element, item)
        else:
            self.number(CODES[kind], value)

    def pair(self, key: bytes, kind: int, value: Any) -> None:
        self.text(key)
        self.number("I", kind)
        self.value(kind, value)


@dataclass
class Tensor:
    """`shape` innermost first, as GGUF has it. `data` None: left out of the file. `offset` None: after the one before."""

    name: bytes
    shape: tuple[int, ...]
    type_id: int = 0
    data: bytes | None = b""
    offset: int | None = None


def gguf(
    pairs: list[Pair],
    tensors: list[Tensor],
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
    magic: bytes = b"GGUF",
) -> Bytes:
    """A GGUF file. counts: how many tensors and keys it claims; alignment: what the data really lies on."""
    out = Bytes(bytearray(magic))
    out.number("I", version)
    for count in counts or (len(tensors), len(pairs)):
        out.number("Q", count)
    for pair in pairs:
        out.pair(*pair)
    data = bytearray()
    for tensor in tensors:
        out.text(tensor.name)
        out.number("I", len(tensor.shape))
        for size in tensor.shape:
            out.number("Q", size)
        out.number("I", tensor.type_id)
        out.number("Q", len(data) if tensor.offset is None else tensor.offset)
        data += (tensor.data or b"") + bytes(-len(tensor.data or b"") % alignment)
    out.data += bytes(-len(out.data) % alignment) + data
    return out


def values(rows: int, columns: int, type_name: str, seed: int = 0) -> bytes:
    """A matrix of a tensor type: small floats, or blocks of random bits whose scales are small."""
    type, random = TYPES[type_name], np.random.default_rng(seed)
    if type.block == 1:
        floats = random.normal(0, 0.1, (rows, columns)).astype(np.float32)
        if type_name == "bf16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        return floats.astype(np.float16 if type_name == "f16" else np.float32).tobytes()
    blocks = random.integers(0, 256, (rows * columns // type.block, type.block_bytes)).astype(np.uint8)
    for place in {"q6_k": (208,), "q3_k": (108,), "q2_k": (80, 82), "mxfp4": ()}.get(type_name, (0, 2)):
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    if type_name == "mxfp4":
        blocks[:, 0] = 120
    return blocks.tobytes()


BYTE_TOKENS = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(256, 324))]
"""GPT-2's byte alphabet."""
TOKENS = [*BYTE_TOKENS, "he", "ll", "hell", "Ġw", "<|user|>", "<|end|>"]
MERGES = ["h e", "l l", "he ll", "Ġ w"]
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Sizes:
    """The smallest that all of a model's parts show in."""

    hidden: int = 32
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    layers: int = 1
    context: int = 256

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a Llama with tied output by its GGUF name, outermost first."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), self.hidden), "output_norm.weight": (self.hidden,)}
        for layer in range(self.layers):
            parts = {
                "attn_norm": (self.hidden,),
                "attn_q": (query, self.hidden),
                "attn_k": (kv, self.hidden),
                "attn_v": (kv, self.hidden),
                "attn_output": (self.hidden, query),
                "ffn_norm": (self.hidden,),
                "ffn_gate": (self.width, self.hidden),
                "ffn_up": (self.width, self.hidden),
                "ffn_down": (self.hidden, self.width),
            }
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
        return shapes


SUPER = Sizes(hidden=256, width=256, heads=2, kv_heads=1, head_dim=128)


def model_pairs(sizes: Sizes = Sizes(), tokenizer: str = "gpt2") -> list[Pair]:
    pairs: list[Pair] = [
        (b"general.architecture", STRING, b"llama"),
        (b"general.alignment", U32, 32),
        (b"llama.block_count", U32, sizes.layers),
        (b"llama.context_length", U32, sizes.context),
        (b"llama.embedding_length", U32, sizes.hidden),
        (b"llama.feed_forward_length", U32, sizes.width),
        (b"llama.attention.head_count", U32, sizes.heads),
        (b"llama.attention.head_count_kv", U32, sizes.kv_heads),
        (b"llama.attention.key_length", U32, sizes.head_dim),
        (b"llama.attention.value_length", U32, sizes.head_dim),
        (b"llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        (b"llama.rope.freq_base", F32, 10000.0),
        (b"llama.rope.dimension_count", U32, sizes.head_dim),
        (b"llama.vocab_size", U32, len(TOKENS)),
    ]
    return pairs + (vocabulary_pairs() if tokenizer == "gpt2" else sentencepiece_pairs())


def vocabulary_pairs() -> list[Pair]:
    """A byte-level vocabulary with a chat template."""
    types = [3 if token.startswith("<|") else 1 for token in TOKENS]
    return [
        (b"tokenizer.ggml.model", STRING, b"gpt2"),
        (b"tokenizer.ggml.pre", STRING, b"llama-bpe"),
        (b"tokenizer.ggml.tokens", ARRAY, (STRING, [token.encode() for token in TOKENS])),
        (b"tokenizer.ggml.token_type", ARRAY, (I32, types)),
        (b"tokenizer.ggml.merges", ARRAY, (STRING, [merge.encode() for merge in MERGES])),
        (b"tokenizer.ggml.bos_token_id", U32, len(TOKENS) - 2),
        (b"tokenizer.ggml.eos_token_id", U32, len(TOKENS) - 1),
        (b"tokenizer.ggml.add_bos_token", BOOL, 1),
        (b"tokenizer.chat_template", STRING, TEMPLATE.encode()),
    ]


def sentencepiece_pairs() -> list[Pair]:
    """As many tokens as TOKENS: three control tokens, 256 bytes, a few pieces."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "l", "ll"][: len(TOKENS)]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1][: len(TOKENS)]
    return [
        (b"tokenizer.ggml.model", STRING, b"llama"),
        (b"tokenizer.ggml.tokens", ARRAY, (STRING, [piece.encode() for piece in pieces])),
        (b"tokenizer.ggml.scores", ARRAY, (F32, [-float(i) for i in range(len(pieces))])),
        (b"tokenizer.ggml.token_type", ARRAY, (I32, types)),
        (b"tokenizer.ggml.bos_token_id", U32, 1),
        (b"tokenizer.ggml.eos_token_id", U32, 2),
        (b"tokenizer.ggml.unknown_token_id", U32, 0),
        (b"tokenizer.ggml.add_bos_token", BOOL, 1),
        (b"tokenizer.chat_template", STRING, TEMPLATE.encode()),
    ]


def model_tensors(types: list[str], sizes: Sizes = Sizes()) -> list[Tensor]:
    """All tensors, the matrices in `types` by turns."""
    tensors, turn = [], 0
    for name, shape in sizes.shapes().items():
        type_name = "f32"
        if len(shape) == 2:
            type_name, turn = types[turn % len(types)], turn + 1
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        tensors.append(Tensor(name.encode(), shape[::-1], TYPES[type_name].gguf_id, values(rows, columns, type_name, turn)))
    return tensors


def model_gguf(types: list[str], sizes: Sizes = Sizes(), tokenizer: str = "gpt2") -> Bytes:
    """A whole model that runs."""
    return gguf(model_pairs(sizes, tokenizer), model_tensors(types, sizes))


HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
}


def hf_name(name: str) -> str:
    """ "blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj.weight"."""
    parts = name.removesuffix(".weight").split(".")
    return f"model.layers.{parts[1]}.{HF_NAMES[parts[2]]}.weight" if parts[0] == "blk" else f"{HF_NAMES[parts[0]]}.weight"


def hf_config(sizes: Sizes = Sizes()) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.width,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": sizes.context,
        "vocab_size": len(TOKENS),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128},
        "tie_word_embeddings": True,
        "eos_token_id": len(TOKENS) - 1,
    }


def tokenizer_json() -> dict[str, Any]:
    vocabulary = {token: id for id, token in enumerate(TOKENS)}
    special = [token for token in TOKENS if token.startswith("<|")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocabulary[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|user|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [vocabulary["<|user|>"]], "tokens": ["<|user|>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    ids = {token: TOKENS.index(token) for token in ("<|user|>", "<|end|>")}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "bos_token": "<|user|>",
        "eos_token": {"content": "<|end|>", **flags},
        "add_bos_token": True,
        "added_tokens_decoder": {str(id): {"content": token, **flags} for token, id in ids.items()},
        "chat_template": TEMPLATE,
        "model_max_length": 10**30,
    }


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """name -> (dtype, shape, data), one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + len(data)]}
        place += len(data)
    return raw_safetensors(json.dumps(header).encode(), b"".join(data for _, _, data in tensors.values()))


def raw_safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """`length`: what the file says of its header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def hf_tensors(sizes: Sizes = Sizes(), types: tuple[str, ...] = ("f32", "f16", "bf16")) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}
    for turn, (name, shape) in enumerate(sizes.shapes().items()):
        type_name = types[turn % len(types)]
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        found[hf_name(name)] = (type_name.upper(), shape, values(rows, columns, type_name, turn))
    return found


def write_folder(folder: Path, shards: int = 1, sizes: Sizes = Sizes()) -> Path:
    """A whole Hugging Face folder that runs; its weights in one file, or in `shards` with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(sizes)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [len(TOKENS) - 1], "temperature": 0.5}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    tensors = hf_tensors(sizes)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return folder
    homes = {name: f"model-{turn % shards + 1:05d}-of-{shards:05d}.safetensors" for turn, name in enumerate(tensors)}
    for file in set(homes.values()):
        (folder / file).write_bytes(safetensors({name: tensor for name, tensor in tensors.items() if homes[name] == file}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return folder
