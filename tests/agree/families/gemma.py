"""Gemma: scaled embeddings, norm weights stored less 1, the first release's "gelu"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import GemmaConfig, GemmaForCausalLM


def draw(random: np.random.Generator) -> Settings:
    activation = str(random.choice(["gelu", "gelu_pytorch_tanh", "silu"]))
    return {**drawn_sizes(random), **drawn_rope(random), "attention_bias": flip(random), "hidden_act": activation}


FAMILY = replace(
    LLAMA,
    config=GemmaConfig,
    model=GemmaForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "head_dim": 16},
        "gqa-untied": {**GQA, "tie_word_embeddings": False},
        "old-gelu": {**LLAMA.named["mqa-tied"], "hidden_act": "gelu"},
        "biases": {**GQA, "attention_bias": True},
        "linear": {**GQA, **scaled("linear")},
    },
    gguf="gemma",
    settings={**LLAMA.settings, "tie_word_embeddings": True},
)
