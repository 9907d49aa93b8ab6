"""InternLM 2: a Llama under other names, its queries, keys and values packed by KV head; dynamic and linear rotary scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from family import Family, Settings, State, flip, scaled
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    groups = values["num_key_value_heads"]
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        grouped = torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1)  # [groups, rows of a group, ...]
        state[name.replace("self_attn.q_proj", "attention.wqkv")] = grouped.flatten(0, 1)
    for ours, theirs in NAMES.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    rope = values["rope_parameters"]
    kept = "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads num_hidden_layers hidden_act rms_norm_eps"
    made = {key: values[key] for key in (*kept.split(), "max_position_embeddings", "tie_word_embeddings", "initializer_range")}
    made |= {"model_type": "internlm2", "attn_implementation": "eager", "rope_theta": rope["rope_theta"], "rope_scaling": None}
    if rope["rope_type"] != "default":
        made["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    if not values["attention_bias"]:
        made["bias"] = False
    return made, state


def sized(heads: int, kv_heads: int, head_dim: int, **extra: Any) -> Settings:
    sizes = {"hidden_size": heads * head_dim, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return {**sizes, "head_dim": head_dim, **extra}


def draw(random: np.random.Generator) -> Settings:
    kv_heads = int(random.integers(1, 4))
    sizes = sized(kv_heads * int(random.integers(1, 5)), kv_heads, int(random.choice([6, 10, 16])))
    kind = str(random.choice(["default", "linear", "dynamic"]))
    rope = {} if kind == "default" else scaled(kind, float(random.choice([1e4, 1e6])))
    width, layers = int(random.integers(20, 90)), int(random.integers(1, 4))
    return {**sizes, **rope, "intermediate_size": width, "num_hidden_layers": layers, "attention_bias": flip(random)}


FAMILY = Family(
    LlamaConfig,
    LlamaForCausalLM,
    draw,
    named={
        "plain": sized(4, 2, 16, intermediate_size=96),
        "mha": sized(3, 3, 18),
        "mqa-biases": sized(4, 1, 14, attention_bias=True),
        "tied": sized(6, 2, 10, tie_word_embeddings=True),
        "linear": sized(6, 2, 10, **scaled("linear")),
        "dynamic": sized(6, 2, 10, **scaled("dynamic", 1e6)),
    },
    blocks=sized(4, 2, 64, intermediate_size=512, num_hidden_layers=2),
    checkpoint=checkpoint,
    gguf="internlm2",
    settings={"intermediate_size": 76, "num_hidden_layers": 3, "tie_word_embeddings": False},
)
