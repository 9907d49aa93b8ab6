"""Qwen 2: biases of queries, keys and values; a sliding window in the upper layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip
from transformers import Qwen2Config, Qwen2ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    window = {
        "use_sliding_window": flip(random),
        "sliding_window": int(random.choice([3, 20])),
        "max_window_layers": int(random.integers(0, 3)),
    }
    return {**drawn_sizes(random), **drawn_rope(random), **window}


FAMILY = replace(
    LLAMA,
    config=Qwen2Config,
    model=Qwen2ForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "gqa": GQA,
        "mqa-tied": LLAMA.named["mqa-tied"],
        "upper-window": {**GQA, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    },
    gguf="qwen2",
)
