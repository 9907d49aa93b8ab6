"""Gemma 3: a rotary base for layers with a window and another for those without, normalised queries and keys; the text model of a
checkpoint that also sees, under either of its names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from families.gemma2 import FAMILY as GEMMA2
from families.gemma2 import WINDOW
from families.llama import drawn_sizes
from family import Settings, State, flip
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

ROPES: Settings = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
}
BOTH: Settings = {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "rope_parameters": ROPES}


def draw(random: np.random.Generator) -> Settings:
    drawn = {**GEMMA2.draw(random), **drawn_sizes(random), "attn_logit_softcapping": None, "layer_types": None}
    factor = float(random.choice([1.0, 8.0]))
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": factor, "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": float(random.choice([1e3, 1e4]))},
    }
    return {**drawn, "rope_parameters": ropes, "sliding_window_pattern": int(random.integers(1, 4)), "older": flip(random)}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`older`: as published, with rotary settings in other words. `inside`: of a model that sees, the prefix of whose names it is."""
    if values.pop("older", False):
        ropes = values.pop("rope_parameters")
        values["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
        values["rope_theta"] = ropes["full_attention"].pop("rope_theta")
        values["rope_scaling"] = ropes["full_attention"]
    prefix = values.pop("inside", None)
    if prefix is None:
        return values, state
    outer = {"model_type": "gemma3", "text_config": values, "vision_config": {"hidden_size": 1152}, "mm_tokens_per_image": 256}
    outer |= {"boi_token_index": 255_999, "eoi_token_index": 256_000, "image_token_index": 262_144}
    inner = {prefix + (name if prefix == "language_model." else name.removeprefix("model.")): tensor for name, tensor in state.items()}
    return outer, inner | {"vision_tower.post_layernorm.weight": torch.ones(8), "multi_modal_projector.norm.weight": torch.ones(8)}


FAMILY = replace(
    GEMMA2,
    config=Gemma3TextConfig,
    model=Gemma3ForCausalLM,
    draw=draw,
    named={
        "plain": {**GEMMA2.named["plain"], "sliding_window": 7},
        "both": BOTH,
        "older": {**BOTH, "older": True},
        "pattern": {**WINDOW, "layer_types": None, "sliding_window_pattern": 3, "older": True},
        "published": {**BOTH, "inside": "language_model.", "older": True},
        "published-untied": {**BOTH, "inside": "language_model.", "tie_word_embeddings": False},
        "inside": {**BOTH, "inside": "model.language_model."},
        "final-cap": {**WINDOW, "final_logit_softcapping": 4.0},
        "biases": {**WINDOW, "attention_bias": True},
    },
    checkpoint=checkpoint,
    gguf="gemma3",
)
