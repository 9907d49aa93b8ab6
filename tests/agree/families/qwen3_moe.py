"""Qwen 3 with experts: layers that have none, weights that sum to one or not, normalised queries and keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.qwen2_moe import EXPERTS, GQA, drawn_mixture
from families.qwen3 import FAMILY as QWEN3
from family import Settings, flip, scaled
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def draw(random: np.random.Generator) -> Settings:
    window = {"use_sliding_window": flip(random), "sliding_window": 9}
    return {**drawn_mixture(random), **window, "attention_bias": flip(random)}


FAMILY = replace(
    QWEN3,
    config=Qwen3MoeConfig,
    model=Qwen3MoeForCausalLM,
    draw=draw,
    named={
        "plain": {**QWEN3.named["plain"], "moe_intermediate_size": 32, "norm_topk_prob": True},
        "gqa": GQA,
        "not-normalised": {**GQA, "norm_topk_prob": False},
        "dense-layers": {**GQA, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
        "biases": {**GQA, "attention_bias": True},
        "window": {**GQA, "use_sliding_window": True, "sliding_window": 7},
        "yarn": {**GQA, **scaled("yarn")},
    },
    blocks={**QWEN3.blocks, "moe_intermediate_size": 256},
    gguf="qwen3moe",
    settings={**QWEN3.settings, **EXPERTS, "norm_topk_prob": True},
)
