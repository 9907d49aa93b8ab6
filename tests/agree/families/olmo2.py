"""OLMo 2: norms after the blocks, queries and keys normalised over their whole width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import Olmo2Config, Olmo2ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random), "attention_bias": flip(random)}


FAMILY = replace(
    LLAMA,
    config=Olmo2Config,
    model=Olmo2ForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "gqa": GQA,
        "mqa-tied": LLAMA.named["mqa-tied"],
        "biases": {**GQA, "attention_bias": True},
        "yarn": {**GQA, **scaled("yarn")},
    },
    gguf="olmo2",
)
