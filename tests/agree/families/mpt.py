"""MPT: numbers of heads that are powers of two and that are not, scores scaled otherwise, an output of its own. (Other slopes,
which transformers does not read, are held by llama.cpp: tests/peers.)"""

from __future__ import annotations

import numpy as np
from family import Family, Settings, flip
from transformers import MptConfig, MptForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5, 6, 8, 12]))
    return {
        "n_heads": heads,
        "d_model": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "n_layers": int(random.integers(1, 4)),
        "attn_config": {"softmax_scale": [None, 0.2][random.integers(2)]},
        "tie_word_embeddings": flip(random),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
    }


FAMILY = Family(
    MptConfig,
    MptForCausalLM,
    draw,
    named={
        "plain": {"d_model": 64, "n_heads": 4},
        "twelve-heads-untied": {"n_heads": 12, "tie_word_embeddings": False},
        "scale": {"attn_config": {"softmax_scale": 0.3}},
    },
    blocks={"d_model": 256, "n_heads": 4, "n_layers": 2},
    gguf="mpt",
    settings={"d_model": 60, "n_heads": 3, "n_layers": 3, "max_seq_len": 160},
)
