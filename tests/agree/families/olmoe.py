"""OLMoE, and FlexOlmo, which has its norms after the blocks: experts weighed so that they sum to one or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.mixtral import drawn_experts
from families.olmo2 import FAMILY as OLMO2
from family import Settings, drawn_rope, flip, scaled
from transformers import FlexOlmoConfig, FlexOlmoForCausalLM, OlmoeConfig, OlmoeForCausalLM, PreTrainedConfig, PreTrainedModel

GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2}


def make_config(flex: bool, **settings: Any) -> PreTrainedConfig:
    return FlexOlmoConfig(**settings) if flex else OlmoeConfig(**settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return FlexOlmoForCausalLM(config) if isinstance(config, FlexOlmoConfig) else OlmoeForCausalLM(config)


def draw(random: np.random.Generator) -> Settings:
    kv_heads = int(random.choice([1, 2, 3]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    return {
        "hidden_size": heads * 2 * int(random.integers(2, 8)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": flip(random),
        "attention_bias": flip(random),
        "norm_topk_prob": flip(random),
        "flex": flip(random),
        **drawn_rope(random),
        **drawn_experts(random, "num_experts"),
    }


FAMILY = replace(
    OLMO2,
    config=make_config,
    model=make_model,
    draw=draw,
    named={
        "plain": {**OLMO2.named["plain"], "num_key_value_heads": 4},
        "gqa-normalised": {**GQA, "norm_topk_prob": True},
        "tied-biases": {**GQA, "attention_bias": True, "tie_word_embeddings": True},
        "flex": {**GQA, "flex": True, **scaled("yarn")},
    },
    gguf="olmoe",
    settings={**OLMO2.settings, "num_hidden_layers": 2, "num_experts": 5, "num_experts_per_tok": 2, "flex": False},
)
