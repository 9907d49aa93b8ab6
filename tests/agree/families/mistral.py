"""Mistral: Llama with a sliding window in every layer, or none; Ministral, which lists the layers; Ministral 3, whose queries grow with
their position; and out of a checkpoint that sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import CONTEXT, TRAINED, Settings, State, drawn_rope, flip
from transformers import (
    Ministral3Config,
    Ministral3ForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

GROWING: Settings = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": TRAINED,
        "max_position_embeddings": CONTEXT,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.4,
    }
}


def make_config(layer_types: list[str] | None = None, **settings: Any) -> PreTrainedConfig:
    if layer_types is not None:
        return MinistralConfig(layer_types=layer_types, **settings)
    growing = "llama_4_scaling_beta" in settings.get("rope_parameters", {})
    return Ministral3Config(**settings) if growing else MistralConfig(**settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    if isinstance(config, MinistralConfig):
        return MinistralForCausalLM(config)
    return Ministral3ForCausalLM(config) if isinstance(config, Ministral3Config) else MistralForCausalLM(config)


def draw(random: np.random.Generator) -> Settings:
    if random.random() < 0.3:
        return {**drawn_sizes(random), **GROWING, "inside": flip(random)}
    drawn = {**drawn_sizes(random), **drawn_rope(random), "sliding_window": [None, 1, 9, 40, 200][random.integers(5)]}
    if drawn["sliding_window"] is None or random.random() < 0.5:
        return drawn
    return {**drawn, "layer_types": random.choice(["full_attention", "sliding_attention"], drawn["num_hidden_layers"]).tolist()}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`inside`: of a model that sees, as published."""
    if not values.pop("inside", False):
        return values, state
    outer = {"model_type": "mistral3", "text_config": values, "vision_config": {"hidden_size": 1024}, "image_token_index": 10}
    outer |= {"multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2, "vision_feature_layer": -1}
    inner = {f"language_model.{name}": tensor for name, tensor in state.items()}
    return outer, inner | {"vision_tower.ln_pre.weight": torch.ones(8), "multi_modal_projector.norm.weight": torch.ones(8)}


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
        "temperature": {**GQA, **GROWING},
        "inside": {**GQA, "sliding_window": None, "inside": True},
        "temperature-inside-tied": {**GQA, **GROWING, "tie_word_embeddings": True, "inside": True},
        "mqa-tied": LLAMA.named["mqa-tied"],
    },
    checkpoint=checkpoint,
)
