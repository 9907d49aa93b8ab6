"""Granite with mixtures: multipliers, and a block that every token passes or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.granite import FAMILY as GRANITE
from families.granite import SCALED
from families.llama import GQA
from families.mixtral import drawn_experts
from family import Settings, flip
from transformers import (
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    GraniteMoeSharedConfig,
    GraniteMoeSharedForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)


def make_config(shared_intermediate_size: int, **settings: Any) -> PreTrainedConfig:
    if shared_intermediate_size:
        return GraniteMoeSharedConfig(shared_intermediate_size=shared_intermediate_size, **settings)
    return GraniteMoeConfig(**settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return GraniteMoeSharedForCausalLM(config) if isinstance(config, GraniteMoeSharedConfig) else GraniteMoeForCausalLM(config)


def draw(random: np.random.Generator) -> Settings:
    settings = {**GRANITE.draw(random), **drawn_experts(random)}
    del settings["mlp_bias"]
    return {**settings, "shared_intermediate_size": int(random.integers(8, 60)) * flip(random)}


FAMILY = replace(
    GRANITE,
    config=make_config,
    model=make_model,
    draw=draw,
    named={
        "plain": GRANITE.named["plain"],
        "multipliers-tied": {**GQA, **SCALED, "tie_word_embeddings": True},
        "shared-biases": {**GQA, **SCALED, "shared_intermediate_size": 44, "attention_bias": True},
        "shared": {**GQA, "attention_multiplier": 0.3, "shared_intermediate_size": 44},
    },
    gguf="granitemoe",
    settings={
        **GRANITE.settings,
        "num_hidden_layers": 2,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 0,
    },
)
