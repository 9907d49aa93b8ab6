"""StarCoder 2: grouped queries, windows, a model without biases, an output of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.phi import FAMILY as PHI
from families.phi import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import Starcoder2Config, Starcoder2ForCausalLM


def draw(random: np.random.Generator) -> Settings:
    window = [None, 1, 9, 200][random.integers(4)]
    return {**drawn_sizes(random), **drawn_rope(random), "use_bias": flip(random), "sliding_window": window}


FAMILY = replace(
    PHI,
    config=Starcoder2Config,
    model=Starcoder2ForCausalLM,
    draw=draw,
    named={
        "plain": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2},
        "window": {**GQA, "sliding_window": 7},
        "mqa-no-biases-untied": {**GQA, "num_key_value_heads": 1, "use_bias": False, "tie_word_embeddings": False},
        "linear": {**GQA, **scaled("linear")},
    },
    blocks={**PHI.blocks, "num_key_value_heads": 2},
    gguf="starcoder2",
    settings={**PHI.settings, "num_key_value_heads": 3},
)
