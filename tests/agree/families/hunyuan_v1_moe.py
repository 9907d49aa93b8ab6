"""Hunyuan with mixtures: numbers that published files give for every layer, a base stretched by alpha."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.hunyuan_v1_dense import FAMILY as DENSE
from families.hunyuan_v1_dense import stretched
from families.llama import GQA, drawn_sizes
from families.mixtral import drawn_experts
from family import Settings, State, drawn_rope, flip
from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`published`: with the keys of the published files."""
    published, layers = values.get("published", False), values["num_hidden_layers"]
    assert DENSE.checkpoint is not None
    values, state = DENSE.checkpoint(values, state)
    if published:
        values |= {"num_experts": 5, "moe_topk": [2] * layers, "num_shared_expert": [1] * layers, "use_mixed_mlp_moe": True}
        values |= {"moe_intermediate_size": [values["intermediate_size"]] * layers, "norm_topk_prob": True, "moe_drop_tokens": False}
    return values, state


def draw(random: np.random.Generator) -> Settings:
    rope = stretched(float(random.choice([8.0, 1000.0]))) if flip(random) else drawn_rope(random)
    experts = drawn_experts(random, "num_experts")
    return {**drawn_sizes(random), **rope, "num_experts": experts["num_experts"], "moe_topk": experts["num_experts_per_tok"]}


FAMILY = replace(
    DENSE,
    config=HunYuanMoEV1Config,
    model=HunYuanMoEV1ForCausalLM,
    draw=draw,
    checkpoint=checkpoint,
    named={
        "plain": DENSE.named["plain"],
        "published": {**GQA, **stretched(1000.0), "published": True, "tie_word_embeddings": True},
        "biases": {**GQA, "attention_bias": True},
    },
    gguf="hunyuan-moe",
    settings={**DENSE.settings, "num_hidden_layers": 2, "num_experts": 5, "moe_topk": 2},
)
