"""Mistral: Llama with a sliding window in every layer, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope
from transformers import MistralConfig, MistralForCausalLM


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random), "sliding_window": [None, 1, 9, 40, 200][random.integers(5)]}


FAMILY = replace(
    LLAMA,
    config=MistralConfig,
    model=MistralForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "window": {**GQA, "sliding_window": 5},
        "no-window": {**GQA, "sliding_window": None},
        "mqa-tied": LLAMA.named["mqa-tied"],
    },
)
