"""Qwen, the first: a Qwen 2 without grouped queries (or, with biases everywhere, a Llama) under other names, its queries, keys and
values packed, its configured width twice the real one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from family import Family, Settings, State, flip
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w1",
    "mlp.down_proj": "mlp.c_proj",
}


def make_config(no_bias: bool, **settings: Any) -> PreTrainedConfig:
    return Qwen2Config(**settings) if no_bias else LlamaConfig(**settings, attention_bias=True, mlp_bias=True)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return Qwen2ForCausalLM(config) if isinstance(config, Qwen2Config) else LlamaForCausalLM(config)


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        state[name.replace("self_attn.q_proj", "attn.c_attn")] = torch.cat(parts)
    for ours, theirs in NAMES.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    made = {key: values[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "tie_word_embeddings")}
    made |= {
        "model_type": "qwen",
        "tokenizer_class": "QWenTokenizer",
        "intermediate_size": 2 * values["intermediate_size"],
        "kv_channels": values["head_dim"] if "head_dim" in values else values["hidden_size"] // values["num_attention_heads"],
        "layer_norm_epsilon": values["rms_norm_eps"],
        "rotary_emb_base": values["rope_parameters"]["rope_theta"],
        "rotary_pct": 1.0,
        "seq_length": 96,
        "max_position_embeddings": values["max_position_embeddings"],
        "no_bias": values["model_type"] == "qwen2",
        **dict.fromkeys(("use_dynamic_ntk", "use_logn_attn", "scale_attn_weights", "use_cache", "bf16"), True),
        **dict.fromkeys(("fp16", "fp32", "onnx_safe"), False),
        **dict.fromkeys(("attn_dropout_prob", "emb_dropout_prob"), 0.0),
        "use_flash_attn": "auto",
    }
    return made, state


def sized(heads: int, head_dim: int, **extra: Any) -> Settings:
    return {"hidden_size": heads * head_dim, "num_attention_heads": heads, "num_key_value_heads": heads, **extra}


def draw(random: np.random.Generator) -> Settings:
    sizes = sized(int(random.integers(1, 7)), int(random.choice([6, 10, 16])), no_bias=flip(random))
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": float(random.choice([1e4, 1e6]))}}
    return {**sizes, **rope, "intermediate_size": int(random.integers(20, 90)), "num_hidden_layers": int(random.integers(1, 4))}


FAMILY = Family(
    make_config,
    make_model,
    draw,
    named={
        "plain": sized(4, 16, intermediate_size=96),
        "biases": sized(3, 14, no_bias=False),
        "tied": sized(2, 18, tie_word_embeddings=True),
    },
    blocks=sized(4, 64, intermediate_size=512, num_hidden_layers=2),
    checkpoint=checkpoint,
    gguf="qwen",
    settings={"intermediate_size": 76, "num_hidden_layers": 3, "tie_word_embeddings": False, "no_bias": True},
)
