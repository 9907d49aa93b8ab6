"""StableLM: layer norms, heads rotated in part; the parallel blocks and the norms of each head of the 12B model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.phi import FAMILY as PHI
from families.phi import GQA, PLAIN, drawn_share, drawn_sizes
from family import Settings, flip, scaled
from transformers import StableLmConfig, StableLmForCausalLM

FLAGS = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    return {**sizes, **drawn_share(random, sizes), **{name: flip(random) for name in FLAGS}}


FAMILY = replace(
    PHI,
    config=StableLmConfig,
    model=StableLmForCausalLM,
    draw=draw,
    named={
        "plain": {**PLAIN, "num_key_value_heads": 4},
        "biases": {**GQA, "use_qkv_bias": True, "partial_rotary_factor": 0.5},
        "12b": {**GQA, "qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
        "head-norms": {**GQA, "qk_layernorm": True, "partial_rotary_factor": 1.0},
        "mqa-norm": {**GQA, "num_key_value_heads": 1, "qk_layernorm": True, "tie_word_embeddings": True, "partial_rotary_factor": 0.5},
        "yarn": {**GQA, **scaled("yarn"), "partial_rotary_factor": 0.5},
    },
    blocks={**PHI.blocks, "num_key_value_heads": 2},
    gguf="stablelm",
    settings={**PHI.settings, "hidden_size": 72, "num_key_value_heads": 3},
)
