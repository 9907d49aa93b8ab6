"""Phi 1 and 2: parallel blocks on one layer norm, heads rotated in part, biases everywhere; norms of queries and keys."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, drawn_rope, flip, scaled
from transformers import PhiConfig, PhiForCausalLM


def drawn_sizes(random: np.random.Generator) -> Settings:
    """Sizes of a decoder whose heads have the width of the hidden size divided by them."""
    kv_heads = int(random.choice([1, 2, 3]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    return {
        "hidden_size": heads * 2 * int(random.integers(4, 9)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": flip(random),
    }


def drawn_share(random: np.random.Generator, sizes: Settings) -> Settings:
    """A share of each head that makes an even number of entries, in the rotary settings."""
    rope, pairs = drawn_rope(random), sizes["hidden_size"] // sizes["num_attention_heads"] // 2
    share = float(random.integers(2, pairs + 1) / pairs)
    return {**rope, "rope_parameters": {**rope["rope_parameters"], "partial_rotary_factor": share}}


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    return {**sizes, **drawn_share(random, sizes), "qk_layernorm": flip(random), "hidden_act": str(random.choice(["gelu_new", "relu"]))}


GQA: Settings = {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2}
PLAIN: Settings = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}

FAMILY = Family(
    PhiConfig,
    PhiForCausalLM,
    draw,
    named={
        "plain": PLAIN,
        "phi-2": {"hidden_size": 80, "num_attention_heads": 4, "partial_rotary_factor": 0.4},
        "gqa-norms": {**GQA, "qk_layernorm": True},
        "tied-relu": {**GQA, "hidden_act": "relu", "tie_word_embeddings": True},
        "linear": {**GQA, **scaled("linear")},
    },
    blocks={"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4},
    gguf="phi2",
    settings={"hidden_size": 60, "intermediate_size": 76, "num_hidden_layers": 3, "num_attention_heads": 3},
)
