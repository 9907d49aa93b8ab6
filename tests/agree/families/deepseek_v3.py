"""DeepSeek V3 and what is made like it: scores by sigmoids, corrected; GLM 4.7 Flash lists the layers that have experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from families.deepseek_v2 import FAMILY as DEEPSEEK_V2
from families.deepseek_v2 import YARN
from family import Settings, State, flip
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

GROUPS: Settings = {"n_routed_experts": 12, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}


def make_config(lite: bool, **settings: Any) -> PreTrainedConfig:
    return Glm4MoeLiteConfig(**settings) if lite else DeepseekV3Config(**settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return with_corrections(Glm4MoeLiteForCausalLM(config) if isinstance(config, Glm4MoeLiteConfig) else DeepseekV3ForCausalLM(config))


def with_corrections(model: PreTrainedModel) -> PreTrainedModel:
    """Values that matter to every choice; transformers starts them at 0."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in (*model.named_buffers(), *model.named_parameters()):
        if name.endswith("e_score_correction_bias"):
            buffer.data.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """With a tensor of the layer that predicts the token after the next, as published files have them."""
    further = f"model.layers.{values['num_hidden_layers']}.eh_proj.weight"
    return {**values, "num_nextn_predict_layers": 1}, {**state, further: torch.ones(4, 8)}


def draw(random: np.random.Generator) -> Settings:
    groups = int(random.integers(1, 4))
    settings = DEEPSEEK_V2.draw(random)
    for name in ("topk_method", "mlp_bias"):
        settings.pop(name, None)
    return {
        **settings,
        "n_routed_experts": 4 * groups,
        "n_group": groups,
        "topk_group": int(random.integers(1, groups + 1)),
        "num_experts_per_tok": int(random.integers(1, 5)),
        "norm_topk_prob": flip(random),
        "rope_interleave": flip(random),
        "lite": False,
    }


FAMILY = replace(
    DEEPSEEK_V2,
    config=make_config,
    model=make_model,
    draw=draw,
    checkpoint=checkpoint,
    named={
        "plain": {"q_lora_rank": 32},
        "groups-yarn": {**GROUPS, "q_lora_rank": 21, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
        "not-normalised-biases": {"norm_topk_prob": False, "q_lora_rank": 21, "attention_bias": True},
        "halves": {"rope_interleave": False, "q_lora_rank": 21, "n_routed_experts": 5, "first_k_dense_replace": 0},
        "lite": {"lite": True, "mlp_layer_types": ["sparse", "sparse"]},
    },
    gguf="deepseek2",
    settings={
        **DEEPSEEK_V2.settings,
        "num_hidden_layers": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "lite": False,
    },
)
