"""Mixtral: how many experts there are and how many a token gets; a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, scaled
from transformers import MixtralConfig, MixtralForCausalLM


def drawn_experts(random: np.random.Generator, name: str = "num_local_experts") -> Settings:
    """How many experts, under their name, and how many of them for a token."""
    experts = int(random.integers(2, 9))
    return {name: experts, "num_experts_per_tok": int(random.integers(1, experts + 1))}


def draw(random: np.random.Generator) -> Settings:
    window = None if random.random() < 0.5 else int(random.integers(1, 40))
    return {**drawn_sizes(random), **drawn_rope(random), **drawn_experts(random), "sliding_window": window}


FAMILY = replace(
    LLAMA,
    config=MixtralConfig,
    model=MixtralForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "gqa": GQA,
        "mqa-tied": LLAMA.named["mqa-tied"],
        "window": {**GQA, "sliding_window": 7},
        "one-of-two": {**GQA, "num_local_experts": 2, "num_experts_per_tok": 1},
        "all-of-three": {**GQA, "num_local_experts": 3, "num_experts_per_tok": 3},
        "yarn": {**GQA, **scaled("yarn")},
    },
    gguf="llama",
    settings={**LLAMA.settings, "num_local_experts": 5, "num_experts_per_tok": 2},
)
