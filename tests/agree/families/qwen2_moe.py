"""Qwen 2 with experts: layers that have none, the gated block that every token passes, weights that sum to one or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import drawn_sizes
from families.mixtral import drawn_experts
from families.qwen2 import FAMILY as QWEN2
from family import Settings, drawn_rope, flip, scaled
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14}
EXPERTS: Settings = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 36}


def drawn_mixture(random: np.random.Generator) -> Settings:
    """Sizes, rotary settings, experts, and which layers have them."""
    layers = {"decoder_sparse_step": int(random.integers(1, 4)), "mlp_only_layers": [0] if flip(random) else []}
    experts = {**drawn_experts(random, "num_experts"), "norm_topk_prob": flip(random), "moe_intermediate_size": int(random.integers(8, 60))}
    return {**drawn_sizes(random), **drawn_rope(random), **experts, **layers}


def draw(random: np.random.Generator) -> Settings:
    window = {"use_sliding_window": flip(random), "sliding_window": 9, "max_window_layers": int(random.integers(0, 4))}
    shared = {"shared_expert_intermediate_size": int(random.integers(8, 60)), "qkv_bias": flip(random)}
    return {**drawn_mixture(random), **shared, **window}


FAMILY = replace(
    QWEN2,
    config=Qwen2MoeConfig,
    model=Qwen2MoeForCausalLM,
    draw=draw,
    named={
        "plain": {**QWEN2.named["plain"], "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
        "gqa": GQA,
        "normalised": {**GQA, "norm_topk_prob": True},
        "every-second-layer": {**GQA, "decoder_sparse_step": 2},
        "dense-layers": {**GQA, "mlp_only_layers": [0, 2]},
        "no-biases": {**GQA, "qkv_bias": False},
        "window": {**GQA, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        "yarn": {**GQA, **scaled("yarn")},
    },
    blocks={**QWEN2.blocks, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 512},
    gguf="qwen2moe",
    settings={**QWEN2.settings, **EXPERTS, "shared_expert_intermediate_size": 52},
)
