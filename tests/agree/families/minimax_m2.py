"""MiniMax M2: any share of a head rotated, norms of whole queries and keys, corrected sigmoids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.deepseek_v3 import with_corrections
from families.glm4 import rotating
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from families.mixtral import drawn_experts
from family import Settings, State, drawn_rope, scaled
from transformers import MiniMaxM2Config, MiniMaxM2ForCausalLM, PreTrainedModel


def make_model(config: Any) -> PreTrainedModel:
    return with_corrections(MiniMaxM2ForCausalLM(config))


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """With what published files say besides."""
    mtp = {"use_mtp": True, "num_mtp_modules": 3, "mtp_transformer_layers": 1}
    own = {"use_qk_norm": True, "qk_norm_type": "per_layer", "use_routing_bias": True, "attn_type_list": [1, 1], "scoring_func": "sigmoid"}
    return {**values, **mtp, **own}, state


def draw(random: np.random.Generator) -> Settings:
    sizes = {**drawn_sizes(random), "head_dim": int(random.choice([8, 12, 16]))}
    return {**sizes, **drawn_experts(random), **rotating(float(random.choice([0.5, 1.0])), drawn_rope(random))}


FAMILY = replace(
    LLAMA,
    config=MiniMaxM2Config,
    model=make_model,
    draw=draw,
    checkpoint=checkpoint,
    named={
        "plain": {**LLAMA.named["plain"], "head_dim": 16, **rotating(0.5, {})},
        "gqa": GQA,
        "tied-yarn": {**GQA, **rotating(0.5, scaled("yarn")), "head_dim": 12, "tie_word_embeddings": True},
    },
    gguf="minimax-m2",
    settings={**LLAMA.settings, "num_hidden_layers": 2, "num_local_experts": 5, "num_experts_per_tok": 2},
)
