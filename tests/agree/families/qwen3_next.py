"""Qwen 3 Next: the gated delta rule with value heads that share keys, beside gated attention; mixtures in some layers or in all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.qwen2_moe import EXPERTS, drawn_mixture
from families.qwen3 import FAMILY as QWEN3
from family import Settings, flip
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

NET: Settings = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}


def drawn_net(random: np.random.Generator, layers: int) -> Settings:
    heads = int(random.integers(1, 4))
    return {
        "linear_num_key_heads": heads,
        "linear_num_value_heads": heads * int(random.integers(1, 4)),
        "linear_key_head_dim": int(random.integers(3, 40)),
        "linear_value_head_dim": int(random.integers(3, 40)),
        "linear_conv_kernel_dim": int(random.integers(2, 6)),
        "layer_types": [str(random.choice(["linear_attention", "full_attention"])) for _ in range(layers)],
        "head_dim": int(random.choice([8, 16, 24])),
        "attention_bias": flip(random),
    }


def draw(random: np.random.Generator) -> Settings:
    mixture = {**drawn_mixture(random), "shared_expert_intermediate_size": int(random.integers(8, 60))}
    mixture.pop("rope_parameters", None)
    return {**mixture, **drawn_net(random, mixture["num_hidden_layers"])}


FAMILY = replace(
    QWEN3,
    config=Qwen3NextConfig,
    model=Qwen3NextForCausalLM,
    draw=draw,
    named={
        "plain": {
            **QWEN3.named["plain"],
            **NET,
            "linear_value_head_dim": 32,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
        "gqa": {**GQA, "layer_types": None, "num_hidden_layers": 4},
        "dense-layers": {**GQA, "mlp_only_layers": [0, 2]},
        "biases": {**GQA, "attention_bias": True},
        "no-attention": {**GQA, "layer_types": ["linear_attention"] * 3, "linear_conv_kernel_dim": 2},
    },
    blocks={
        **QWEN3.blocks,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 512,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 64,
        "layer_types": ["linear_attention", "full_attention"],
    },
    gguf=None,
    settings={**QWEN3.settings, **NET, **EXPERTS, "shared_expert_intermediate_size": 52, "norm_topk_prob": True},
)
