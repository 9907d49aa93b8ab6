"""StarCoder: one key and value for all heads, or one each; scores that are not scaled; names without a prefix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.gpt2 import FAMILY as GPT2
from family import Settings, flip
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM


def draw(random: np.random.Generator) -> Settings:
    drawn = GPT2.draw(random)
    kept = {key: value for key, value in drawn.items() if key not in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")}
    return {**kept, "multi_query": flip(random)}


FAMILY = replace(
    GPT2,
    config=GPTBigCodeConfig,
    model=GPTBigCodeForCausalLM,
    draw=draw,
    named={
        "plain": GPT2.named["plain"],
        "many-keys-untied": {"multi_query": False, "tie_word_embeddings": False, "n_inner": 52},
        "unscaled": GPT2.named["unscaled"],
    },
    gguf="starcoder",
)
