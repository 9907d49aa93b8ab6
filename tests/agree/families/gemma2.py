"""Gemma 2: alternating windows, norms after blocks, soft caps, its own scale of scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.gemma import FAMILY as GEMMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip
from transformers import Gemma2Config, Gemma2ForCausalLM

WINDOW: Settings = {**GQA, "sliding_window": 7, "query_pre_attn_scalar": 20}


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    types = random.choice(["full_attention", "sliding_attention"], sizes["num_hidden_layers"]).tolist()
    return {
        **sizes,
        **drawn_rope(random),
        "attention_bias": flip(random),
        "query_pre_attn_scalar": int(random.integers(4, 300)),
        "sliding_window": int(random.integers(1, 60)),
        "attn_logit_softcapping": [None, 2.0, 50.0][random.integers(3)],
        "final_logit_softcapping": [None, 5.0, 30.0][random.integers(3)],
        "layer_types": [None, types][random.integers(2)],
    }


FAMILY = replace(
    GEMMA,
    config=Gemma2Config,
    model=Gemma2ForCausalLM,
    draw=draw,
    named={
        "plain": {**GEMMA.named["plain"], "query_pre_attn_scalar": 16},
        "window": WINDOW,
        "low-caps": {**WINDOW, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0},
        "no-caps": {**WINDOW, "attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False},
        "layer-types": {**WINDOW, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        "biases": {**WINDOW, "attention_bias": True},
    },
    gguf="gemma2",
)
