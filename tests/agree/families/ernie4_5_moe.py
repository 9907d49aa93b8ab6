"""ERNIE 4.5 with mixtures: which layers have them, shared blocks or none, corrections that lie in a matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from families.deepseek_v3 import with_corrections
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, State, drawn_rope, scaled
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM, PreTrainedModel


def make_model(config: Any) -> PreTrainedModel:
    return with_corrections(Ernie4_5_MoeForCausalLM(config))


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """With what published files say besides, and a tensor of what predicts the token after the next."""
    own = {"moe_capacity": [64, 64, 64], "moe_use_aux_free": True, "use_rmsnorm": True, "num_nextn_predict_layers": 1, "moe_gate": "topk"}
    state = {name.replace("mlp.gate.moe_statics", "mlp.moe_statics"): tensor for name, tensor in state.items()}
    return {**values, **own}, {**state, "model.mtp_linear_proj.0.weight": torch.ones(4, 8)}


def draw(random: np.random.Generator) -> Settings:
    experts = int(random.integers(2, 9))
    return {
        **drawn_sizes(random),
        **drawn_rope(random),
        "moe_num_experts": experts,
        "moe_k": int(random.integers(1, experts + 1)),
        "moe_num_shared_experts": int(random.integers(0, 3)),
        "moe_intermediate_size": int(random.integers(8, 60)),
        "moe_layer_start_index": int(random.integers(0, 3)),
        "moe_layer_end_index": int(random.integers(-1, 3)),
        "moe_layer_interval": int(random.integers(1, 3)),
    }


FAMILY = replace(
    LLAMA,
    config=Ernie4_5_MoeConfig,
    model=make_model,
    draw=draw,
    checkpoint=checkpoint,
    named={
        "plain": {**LLAMA.named["plain"], "moe_intermediate_size": 32},
        "none-shared-yarn": {**GQA, **scaled("yarn"), "moe_num_shared_experts": 0},
        "every-second-tied": {**GQA, "moe_layer_interval": 2, "num_hidden_layers": 4, "tie_word_embeddings": True},
        "not-the-last": {**GQA, "moe_layer_start_index": 0, "moe_layer_end_index": 0},
    },
    blocks={**LLAMA.blocks, "moe_intermediate_size": 256},
    gguf="ernie4_5-moe",
    settings={
        **LLAMA.settings,
        "num_hidden_layers": 2,
        "moe_num_experts": 5,
        "moe_k": 2,
        "moe_num_shared_experts": 2,
        "moe_intermediate_size": 28,
    },
)
