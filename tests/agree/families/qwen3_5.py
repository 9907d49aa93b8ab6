"""Qwen 3.5: dense, or a mixture; by itself, and as the text model of a checkpoint that sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from families.llama import drawn_sizes
from families.qwen3_next import FAMILY as QWEN3_NEXT
from families.qwen3_next import GQA, NET, drawn_net
from family import Settings, State
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

PLAIN: Settings = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    return {**sizes, **drawn_net(random, sizes["num_hidden_layers"])}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`inside`: of a model that sees."""
    if not values.pop("inside", False):
        return values, state
    outer = {"model_type": "qwen3_5", "text_config": values, "vision_config": {"hidden_size": 1152}, "image_token_id": 248_056}
    inner = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in state.items()}
    return outer, inner | {"model.visual.patch_embed.proj.bias": torch.ones(8)}


def dense(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if "expert" not in key and key not in ("norm_topk_prob", "moe_intermediate_size")}


FAMILY = replace(
    QWEN3_NEXT,
    config=Qwen3_5TextConfig,
    model=Qwen3_5ForCausalLM,
    draw=draw,
    named={
        "plain": {**PLAIN, **NET, "linear_value_head_dim": 32},
        "biases-tied": {**GQA, "attention_bias": True, "tie_word_embeddings": True},
        "inside": {**GQA, "inside": True},
    },
    blocks=dense(QWEN3_NEXT.blocks),
    checkpoint=checkpoint,
    settings=dense(QWEN3_NEXT.settings),
)
