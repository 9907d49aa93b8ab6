"""Hunyuan: queries and keys normalised after rotation, a base stretched by alpha, keys of its larger relatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, State, drawn_rope, flip, scaled
from transformers import HunYuanDenseV1Config, HunYuanDenseV1ForCausalLM

ALPHA: Settings = {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0}


def stretched(alpha: float) -> Settings:
    return {"rope_parameters": {**ALPHA, "alpha": alpha, "rope_theta": 1e4}}


def draw(random: np.random.Generator) -> Settings:
    rope = stretched(float(random.choice([8.0, 1000.0]))) if flip(random) else drawn_rope(random)
    return {**drawn_sizes(random), **rope, "attention_bias": flip(random)}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`published`: with the keys of the published files."""
    if values.pop("published", False):
        scaling = values.pop("rope_parameters")
        values["rope_theta"] = scaling.pop("rope_theta")
        values["rope_scaling"] = {**scaling, "type": scaling.pop("rope_type"), "mscale_all_dim": 1.0}
        values |= {"cla_share_factor": 2, "use_cla": False, "dense_list": [60, 0], "num_experts": 1, "use_qk_norm": True, "mlp_bias": False}
        values |= {"class_num": 0, "im_start_id": 4, "norm_type": "rms", "attention_head_dim": values["head_dim"]}
    return values, state


FAMILY = replace(
    LLAMA,
    config=HunYuanDenseV1Config,
    model=HunYuanDenseV1ForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "head_dim": 16},
        "alpha": {**GQA, **stretched(50.0)},
        "published": {**GQA, **stretched(1000.0), "published": True},
        "mqa-tied": LLAMA.named["mqa-tied"],
        "biases": {**GQA, "attention_bias": True},
        "dynamic": {**GQA, **scaled("dynamic")},
    },
    checkpoint=checkpoint,
    gguf="hunyuan-dense",
)
