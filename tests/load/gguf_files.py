"""Writes GGUF files from transformers models, by the `gguf` package, for tests that need a file and its oracle.

Makes what llama.cpp's converter makes of such a model: names by `gguf`'s own tensor map, Llama's query and key rows in
the order that rotates neighbours, norms and biases in f32, `rope_freqs.weight` for llama3 scaling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoders
import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def write_gguf(
    path: str | Path,
    hf_model: Any,
    type_name: str = "f16",
    tokenizer: str | Path | dict[str, Any] | None = None,
    pre: str = "default",
    chat_template: str | None = None,
    eos_token_id: int | None = None,
    add_bos_token: bool | None = None,
) -> Path:
    """Writes `hf_model` (a transformers Llama, Mistral, Qwen2 or Qwen3 for causal LM) to `path`.

    type_name: of every matrix, any of GGUF that runs; a matrix whose columns its block does not divide becomes
    q8_0, else f16. tokenizer: a byte-level BPE tokenizer.json (path, or its content); the vocabulary is padded to the
    embedding's rows, as llama.cpp demands. Without one the file says that it has none ("none"), which llama.cpp accepts.
    """
    config = hf_model.config
    writer = GGUFWriter(path, ARCHITECTURES[config.model_type])
    writer.add_name("test")
    _write_sizes(writer, config)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        _write_tokenizer(writer, tokenizer, pre, config.vocab_size)
        if config.bos_token_id is not None:
            writer.add_bos_token_id(config.bos_token_id)
        if chat_template is not None:
            writer.add_chat_template(chat_template)
        if add_bos_token is not None:
            writer.add_add_bos_token(add_bos_token)
        if eos_token_id is not None:
            writer.add_eos_token_id(eos_token_id)
    for name, values, type in _tensors(hf_model, type_name):
        writer.add_tensor(name, encode(values, type), raw_shape=None, raw_dtype=GGMLQuantizationType[type.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _write_sizes(writer: GGUFWriter, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] not in ("default", "llama3"):
        raise ValueError(f"GGUF has no rotary scaling {rope['rope_type']!r}")


def _write_tokenizer(writer: GGUFWriter, tokenizer: str | Path | dict[str, Any], pre: str, rows: int) -> None:
    content = tokenizer if isinstance(tokenizer, dict) else json.loads(Path(tokenizer).read_text("utf-8"))
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    for token, index in content["model"]["vocab"].items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in content.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)


def _tensors(hf_model: Any, type_name: str) -> list[tuple[str, np.ndarray, str]]:
    """(GGUF name, float32 values, type name) of every tensor."""
    config = hf_model.config
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    found = []
    for hf_name, tensor in hf_model.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and ".q_proj." in hf_name:
            values = interleave(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in hf_name:
            values = interleave(values, config.num_key_value_heads)
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert name is not None, hf_name
        found.append((name, values, "f32" if values.ndim == 1 else _fitting(type_name, values.shape[1])))
    if config.rope_parameters["rope_type"] == "llama3":
        rotary = hf_model.model.rotary_emb
        dim = 2 * len(rotary.inv_freq)
        plain = config.rope_parameters["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        found.append(("rope_freqs.weight", (plain / rotary.inv_freq.double().numpy()).astype(np.float32), "f32"))
    return found


def interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (or a bias) of each head from the order of halves to the order of neighbours: 0, d/2, 1, d/2 + 1 ..."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _fitting(type_name: str, columns: int) -> str:
    for name in (type_name, "q8_0"):
        if columns % gguf.GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]][0] == 0:
            return name
    return "f16"


def encode(values: np.ndarray, type_name: str) -> np.ndarray:
    """float32 [..., columns] in a tensor type, shaped as `GGUFWriter.add_tensor` takes it."""
    return encoders.encode(values, GGMLQuantizationType[type_name.upper()])
