"""Nemotron: norms stored less 1, ReLU squared, heads rotated in part or whole, biases of either block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import NemotronConfig, NemotronForCausalLM

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12}


def rotating(share: float, settings: Settings) -> Settings:
    return {**settings, "rope_parameters": {**settings["rope_parameters"], "partial_rotary_factor": share}}


def draw(random: np.random.Generator) -> Settings:
    share = float(random.choice([0.5, 1.0]))
    drawn = {**drawn_sizes(random), **rotating(share, drawn_rope(random)), "head_dim": int(random.choice([8, 12, 16]))}
    return {**drawn, "attention_bias": flip(random), "mlp_bias": flip(random), "hidden_act": str(random.choice(["relu2", "gelu"]))}


FAMILY = replace(
    LLAMA,
    config=NemotronConfig,
    model=NemotronForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "gqa": GQA,
        "mqa-tied": {**LLAMA.named["mqa-tied"]},
        "biases": {**GQA, "attention_bias": True, "mlp_bias": True},
        "linear": {**GQA, **rotating(1.0, scaled("linear"))},
    },
    gguf="nemotron",
)
