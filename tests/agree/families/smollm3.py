"""SmolLM 3: layers without positions, in a pattern or listed, and windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA
from family import Settings, flip, scaled
from transformers import SmolLM3Config, SmolLM3ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    drawn = LLAMA.draw(random)
    listed = random.integers(0, 2, drawn["num_hidden_layers"] + int(random.integers(0, 3))).tolist()
    window = {"use_sliding_window": True, "sliding_window": int(random.choice([3, 20]))} if flip(random) else {}
    rotated = {"no_rope_layers": listed} if flip(random) else {"no_rope_layer_interval": int(random.integers(1, 4))}
    return {**drawn, **window, **rotated}


FAMILY = replace(
    LLAMA,
    config=SmolLM3Config,
    model=SmolLM3ForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "interval": {**GQA, "no_rope_layer_interval": 2},
        "fourth-layer": {**GQA, "num_hidden_layers": 5},
        "listed": {**GQA, "no_rope_layers": [0, 1, 0, 1]},
        "window": {**GQA, "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 7},
        "biases-yarn": {**GQA, **scaled("yarn"), "attention_bias": True, "mlp_bias": True},
    },
    gguf="smollm3",
    settings={**LLAMA.settings, "tie_word_embeddings": True},
)
