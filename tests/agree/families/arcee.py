"""Arcee: Llama without a gate, ReLU squared."""

from __future__ import annotations

from dataclasses import replace

from families.llama import FAMILY as LLAMA
from families.llama import GQA
from family import scaled
from transformers import ArceeConfig, ArceeForCausalLM

FAMILY = replace(
    LLAMA,
    config=ArceeConfig,
    model=ArceeForCausalLM,
    named={
        "plain": LLAMA.named["plain"],
        "mqa-tied": LLAMA.named["mqa-tied"],
        "biases": {**GQA, "attention_bias": True, "mlp_bias": True},
        "yarn": {**GQA, **scaled("yarn")},
    },
    gguf="arcee",
)
