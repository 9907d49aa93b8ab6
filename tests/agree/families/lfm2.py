"""LFM2: convolutions with and without biases, in layers by name or by number; a block whose width is derived."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import drawn_sizes
from family import Settings, State, drawn_rope, flip, scaled
from transformers import Lfm2Config, Lfm2ForCausalLM

OWN: Settings = {"block_auto_adjust_ff_dim": False}
HEADS: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2}
LAYERS: Settings = {"layer_types": ["conv", "full_attention", "conv"]}


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    sizes.pop("head_dim")  # the published models have none of their own
    sizes["hidden_size"] = sizes["num_attention_heads"] * int(random.choice([6, 8, 10]))
    kinds = [str(random.choice(["conv", "full_attention"])) for _ in range(sizes["num_hidden_layers"])]
    filters = {"layer_types": kinds, "conv_L_cache": int(random.integers(2, 6)), "conv_bias": flip(random)}
    return {**sizes, **drawn_rope(random), **filters, "block_auto_adjust_ff_dim": flip(random), "block_multiple_of": 8}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`older`: as published first, with the numbers of the layers that attend."""
    if values.pop("older", False):
        kinds = values.pop("layer_types")
        values["full_attn_idxs"] = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
        values["block_ff_dim"] = values.pop("intermediate_size")
    return values, state


FAMILY = replace(
    LLAMA,
    config=Lfm2Config,
    model=Lfm2ForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], **OWN, **LAYERS},
        "biases": {**HEADS, **OWN, **LAYERS, "conv_bias": True},
        "two-taps": {**HEADS, **OWN, **LAYERS, "conv_L_cache": 2},
        "derived-width": {
            **HEADS,
            **LAYERS,
            "block_ffn_dim_multiplier": 1.1,
            "block_multiple_of": 4,
        },
        "no-attention": {**HEADS, **OWN, "layer_types": ["conv"] * 3, "conv_L_cache": 5},
        "older": {**HEADS, **OWN, **LAYERS, "older": True},
        "yarn": {**HEADS, **OWN, **LAYERS, **scaled("yarn")},
    },
    blocks={**LLAMA.blocks, **OWN, "layer_types": ["conv", "full_attention"], "num_attention_heads": 2, "num_key_value_heads": 1},
    checkpoint=checkpoint,
    gguf=None,
)
