"""gpt-oss: sinks, alternating windows, biased experts whose gates and ups alternate, and weights in MXFP4."""

from __future__ import annotations

import numpy as np
from families.llama import drawn_sizes
from families.mixtral import drawn_experts
from family import TRAINED, Family, Settings, drawn_rope, flip
from transformers import GptOssConfig, GptOssForCausalLM

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14}
YARN: Settings = {"rope_type": "yarn", "rope_theta": 15e4, "factor": 8.0, "original_max_position_embeddings": TRAINED, "truncate": False}


def draw(random: np.random.Generator) -> Settings:
    own = {"sliding_window": int(random.integers(1, 40)), "attention_bias": flip(random)}
    return {**drawn_sizes(random), **drawn_rope(random), **drawn_experts(random), **own}


FAMILY = Family(
    GptOssConfig,
    GptOssForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        "gqa": GQA,
        "windows-by-type": {**GQA, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        "no-biases": {**GQA, "attention_bias": False},
        "all-of-three": {**GQA, "num_local_experts": 3, "num_experts_per_tok": 3},
        "tied": {**GQA, "tie_word_embeddings": True},
        "yarn-truncated": {**GQA, "rope_parameters": {**YARN, "truncate": True}},
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
    gguf="gpt-oss",
    settings={
        "hidden_size": 60,
        "intermediate_size": 76,
        "num_hidden_layers": 3,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 7,
        "rope_parameters": YARN,
        "tie_word_embeddings": False,
    },
)
