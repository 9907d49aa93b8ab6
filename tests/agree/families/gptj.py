"""GPT-J: all or some entries of a head rotated; the output has a bias, also where it is tied."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, flip
from transformers import GPTJConfig, GPTJForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5]))
    head_dim = int(random.integers(20 // heads // 2 + 1, 65 // heads // 2 + 1)) * 2
    return {
        "n_head": heads,
        "n_embd": heads * head_dim,
        "rotary_dim": 2 * int(random.integers(1, head_dim // 2 + 1)),
        "n_layer": int(random.integers(1, 4)),
        "n_inner": [None, int(random.integers(20, 90))][random.integers(2)],
        "activation_function": str(random.choice(["gelu_new", "gelu", "relu", "silu"])),
        "tie_word_embeddings": flip(random),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
    }


FAMILY = Family(
    GPTJConfig,
    GPTJForCausalLM,
    draw,
    named={
        "plain": {"n_embd": 64, "n_head": 4, "rotary_dim": 16},
        "partly-rotated": {"rotary_dim": 6, "n_inner": 52},
        "tied": {"rotary_dim": 20, "tie_word_embeddings": True},
    },
    blocks={"n_embd": 256, "n_layer": 2, "n_head": 4, "n_inner": 512, "rotary_dim": 32},
    gguf=None,
    settings={"n_embd": 60, "n_head": 3, "n_layer": 3},
)
