"""Mistral: Llama with a sliding window in every layer, or none; Ministral, which lists the layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope
from transformers import (
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)


def make_config(layer_types: list[str] | None = None, **settings: Any) -> PreTrainedConfig:
    return MistralConfig(**settings) if layer_types is None else MinistralConfig(layer_types=layer_types, **settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return MinistralForCausalLM(config) if isinstance(config, MinistralConfig) else MistralForCausalLM(config)


def draw(random: np.random.Generator) -> Settings:
    drawn = {**drawn_sizes(random), **drawn_rope(random), "sliding_window": [None, 1, 9, 40, 200][random.integers(5)]}
    if drawn["sliding_window"] is None or random.random() < 0.5:
        return drawn
    return {**drawn, "layer_types": random.choice(["full_attention", "sliding_attention"], drawn["num_hidden_layers"]).tolist()}


FAMILY = replace(
    LLAMA,
    config=make_config,
    model=make_model,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "window": {**GQA, "sliding_window": 5},
        "no-window": {**GQA, "sliding_window": None},
        "listed": {**GQA, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        "mqa-tied": LLAMA.named["mqa-tied"],
    },
)
