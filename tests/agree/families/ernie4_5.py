"""ERNIE 4.5: neighbours rotated in either kind of file, biases everywhere or nowhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import Ernie4_5Config, Ernie4_5ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random), "use_bias": flip(random)}


FAMILY = replace(
    LLAMA,
    config=Ernie4_5Config,
    model=Ernie4_5ForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "head_dim": 16},
        "mqa-tied": LLAMA.named["mqa-tied"],
        "biases": {**GQA, "use_bias": True},
        "linear": {**GQA, **scaled("linear")},
    },
    gguf="ernie4_5",
)
