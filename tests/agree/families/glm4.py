"""GLM-4 of both kinds: half of each head rotated by neighbours (or another share), and with or without norms of what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
from family import SCALINGS, Family, Settings, drawn_rope, flip, scaled
from transformers import Glm4Config, Glm4ForCausalLM, GlmConfig, GlmForCausalLM, PreTrainedConfig, PreTrainedModel

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12}


def make_config(post_norms: bool, **settings: Any) -> PreTrainedConfig:
    return Glm4Config(**settings) if post_norms else GlmConfig(**settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return Glm4ForCausalLM(config) if isinstance(config, Glm4Config) else GlmForCausalLM(config)


def rotating(share: float, settings: Settings) -> Settings:
    parameters = settings.get("rope_parameters", {"rope_type": "default", "rope_theta": 1e4})
    return {**settings, "rope_parameters": {**parameters, "partial_rotary_factor": share}}


def draw(random: np.random.Generator) -> Settings:
    kv_heads = int(random.choice([1, 2, 3]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    return {
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": int(random.choice([8, 12, 16])),
        "tie_word_embeddings": flip(random),
        "attention_bias": flip(random),
        "post_norms": flip(random),
        **rotating(float(random.choice([0.5, 1.0])), drawn_rope(random)),
    }


FAMILY = Family(
    make_config,
    make_model,
    draw,
    named={
        "plain": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        "no-post-norms": {**GQA, "post_norms": False},
        "no-biases": {**GQA, "attention_bias": False},
        "mqa-tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": True},
        "whole-heads": {**GQA, **rotating(1.0, {})},
        **{kind: {**GQA, **rotating(0.5, scaled(kind))} for kind in SCALINGS},
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    gguf="glm4",
    settings={"hidden_size": 60, "intermediate_size": 76, "num_hidden_layers": 3, "tie_word_embeddings": False, "post_norms": True},
)
