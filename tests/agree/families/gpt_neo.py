"""GPT-Neo: local layers with windows shorter than prompts, in patterns of several kinds."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, flip
from transformers import GPTNeoConfig, GPTNeoForCausalLM

PATTERNS = [[[["global", "local"], 1]], [[["local"], 3]], [[["global"], 1], [["local", "global"], 2]], [[["global"], 2]]]


def layers(pattern: list) -> Settings:
    return {"attention_types": pattern, "num_layers": sum(len(kinds) * times for kinds, times in pattern)}


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5, 8]))
    return {
        **layers(PATTERNS[random.integers(len(PATTERNS))]),
        "num_heads": heads,
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "intermediate_size": [None, int(random.integers(20, 90))][random.integers(2)],
        "window_size": int(random.choice([1, 4, 33, 200])),
        "activation_function": str(random.choice(["gelu_new", "gelu", "relu", "silu"])),
        "tie_word_embeddings": flip(random),
    }


FAMILY = Family(
    GPTNeoConfig,
    GPTNeoForCausalLM,
    draw,
    named={
        "plain": {**layers(PATTERNS[0]), "hidden_size": 64, "num_heads": 4},
        "local": {**layers(PATTERNS[2]), "window_size": 7},
        "untied": {**layers(PATTERNS[1]), "window_size": 33, "tie_word_embeddings": False, "intermediate_size": 52},
    },
    blocks={**layers(PATTERNS[0]), "hidden_size": 256, "num_heads": 4, "intermediate_size": 512},
    settings={"hidden_size": 60, "num_heads": 3},
)
