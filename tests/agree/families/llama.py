"""Llama: attention and mlp biases, every rotary scaling, heads whose width is not the hidden size divided by them."""

from __future__ import annotations

import numpy as np
from family import SCALINGS, Family, Settings, drawn_rope, flip, scaled
from transformers import LlamaConfig, LlamaForCausalLM

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14}


def drawn_sizes(random: np.random.Generator) -> Settings:
    """Sizes of a decoder in Llama's words; the heads' width is its own."""
    kv_heads = int(random.choice([1, 2, 3]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    return {
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),  # transformers wants a multiple
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": int(random.choice([6, 10, 16, 24])),
        "tie_word_embeddings": flip(random),
    }


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random), "attention_bias": flip(random), "mlp_bias": flip(random)}


FAMILY = Family(
    LlamaConfig,
    LlamaForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2},
        "gqa": GQA,
        "mqa-tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
        "mha": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 18},
        "biases": {**GQA, "attention_bias": True, "mlp_bias": True},
        **{kind: {**GQA, **scaled(kind)} for kind in SCALINGS},
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
    gguf="llama",
    settings={"hidden_size": 60, "intermediate_size": 76, "num_hidden_layers": 3, "tie_word_embeddings": False},
)
