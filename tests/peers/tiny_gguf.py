"""Llama-shaped checkpoints as GGUF files, written with the `gguf` package: the built-in model, and random ones.

The files hold nothing but what other engines read; the same input gives the same tensor bytes everywhere.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "load"))  # encoders.py serves both
import encoders

MODEL = Path(__file__).parents[2] / "models" / "tiny"

# Types of the matrices and of the embedding, which a tied model also uses as its output: mixed where llama.cpp mixes them.
KINDS: dict[str, tuple[Type, Type]] = {
    type.name.lower(): (type, type)
    for type in (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.IQ4_NL, Type.MXFP4, Type.Q6_K)
}
KINDS |= {type.name.lower(): (type, Type.Q6_K) for type in (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.IQ4_XS)}

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TOP_LEVEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Digits one by one, then GPT-2's pattern: what models/tiny/tokenizer.json does, by the name llama.cpp has for it.
PRE_TOKENIZER = "smollm"


def write_tiny(path: Path, kind: str) -> None:
    """The built-in model with every matrix in the types of KINDS[kind]."""
    from safetensors.numpy import load_file

    config = json.loads((MODEL / "config.json").read_text())
    write_gguf(path, kind, config, load_file(MODEL / "model.safetensors"))


def write_gguf(path: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """A Hugging Face checkpoint of the Llama kind, with the built-in model's tokenizer, as one GGUF file."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    _add_hyperparameters(writer, config)
    _add_tokenizer(writer)
    for name, values in tensors.items():
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = interleave_rotary(values, heads)
        _add_tensor(writer, gguf_name(name), values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_digest(path: Path) -> str:
    """SHA-256 of all tensors' names, types and bytes; independent of metadata."""
    digest = hashlib.sha256()
    for tensor in sorted(gguf.GGUFReader(path).tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.tensor_type.name}".encode())
        digest.update(tensor.data.tobytes())
    return digest.hexdigest()


def gguf_name(name: str) -> str:
    """'model.layers.0.self_attn.q_proj.weight' -> 'blk.0.attn_q.weight'."""
    stem, suffix = name.rsplit(".", 1)
    if stem in TOP_LEVEL:
        return f"{TOP_LEVEL[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{IN_LAYER[rest]}.{suffix}"


def interleave_rotary(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query or key projection from halves, (i, i + d/2), to GGUF's pairs, (2i, 2i + 1), head by head."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: NDArray[Any], kind: str) -> None:
    values = np.ascontiguousarray(values, np.float32)
    matrix, embedding = KINDS[kind]
    type = Type.F32 if values.ndim == 1 else embedding if name == "token_embd.weight" else matrix
    writer.add_tensor(name, encoders.encode(values, type), raw_dtype=type)


def _add_hyperparameters(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    control = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    assert [id for _, id in vocabulary] == list(range(len(vocabulary)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if id in control else gguf.TokenType.NORMAL for _, id in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(tokenizer["model"]["vocab"]["<|end|>"])
    writer.add_pad_token_id(tokenizer["model"]["vocab"]["<|pad|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((MODEL / "chat_template.jinja").read_text())
