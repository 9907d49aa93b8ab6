"""Seed-OSS: biases of queries, keys and values, of attention's output and of the feed-forward block, each on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import SeedOssConfig, SeedOssForCausalLM

BIASES = ("attention_bias", "attention_out_bias", "mlp_bias")


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random), **{name: flip(random) for name in BIASES}}


FAMILY = replace(
    LLAMA,
    config=SeedOssConfig,
    model=SeedOssForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "head_dim": 16},
        "mqa-no-biases-tied": {**LLAMA.named["mqa-tied"], "attention_bias": False},
        "all-biases": {**GQA, **dict.fromkeys(BIASES, True)},
        "yarn": {**GQA, **scaled("yarn")},
    },
    gguf="seed_oss",
)
