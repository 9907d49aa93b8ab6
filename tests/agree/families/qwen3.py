"""Qwen 3: normalised queries and keys; biases of attention and a sliding window where asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import GQA
from families.qwen2 import FAMILY as QWEN2
from family import Settings, flip
from transformers import Qwen3Config, Qwen3ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    return {**QWEN2.draw(random), "attention_bias": flip(random)}


FAMILY = replace(
    QWEN2,
    config=Qwen3Config,
    model=Qwen3ForCausalLM,
    draw=draw,
    named={
        **QWEN2.named,
        "plain": {**QWEN2.named["plain"], "head_dim": 16},
        "biases": {**GQA, "attention_bias": True},
        "upper-window": {**GQA, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    },
    gguf="qwen3",
)
