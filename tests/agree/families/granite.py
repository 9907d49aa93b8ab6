"""Granite: multipliers of embeddings, scores, branches and logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA
from family import Settings, scaled
from transformers import GraniteConfig, GraniteForCausalLM

SCALED: Settings = {"embedding_multiplier": 12.0, "attention_multiplier": 0.1, "residual_multiplier": 0.22, "logits_scaling": 5.0}


def draw(random: np.random.Generator) -> Settings:
    return {**LLAMA.draw(random), **{name: float(value * random.uniform(0.5, 2)) for name, value in SCALED.items()}}


FAMILY = replace(
    LLAMA,
    config=GraniteConfig,
    model=GraniteForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "attention_multiplier": 0.25},
        "multipliers": {**GQA, **SCALED},
        "tied-biases": {**GQA, **SCALED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "yarn": {**GQA, **SCALED, **scaled("yarn")},
    },
    gguf="granite",
)
