"""Helium: neighbours rotated, heads that make up the hidden size, biases of some projections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.phi import FAMILY as PHI
from families.phi import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import HeliumConfig, HeliumForCausalLM


def whole(sizes: Settings) -> Settings:
    return {**sizes, "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}


def draw(random: np.random.Generator) -> Settings:
    return {**whole(drawn_sizes(random)), **drawn_rope(random), "attention_bias": flip(random), "mlp_bias": flip(random)}


FAMILY = replace(
    PHI,
    config=HeliumConfig,
    model=HeliumForCausalLM,
    draw=draw,
    named={
        "plain": whole({"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}),
        "biases-tied": {**whole(GQA), "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "yarn": {**whole(GQA), **scaled("yarn")},
    },
    blocks={**whole(PHI.blocks), "num_key_value_heads": 2},
    gguf=None,
    settings={**PHI.settings, "num_key_value_heads": 3, "head_dim": 20},
)
