"""Command-R: parallel blocks on one norm without bias, neighbours rotated, logits scaled; norms of queries and keys by head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import CohereConfig, CohereForCausalLM


def draw(random: np.random.Generator) -> Settings:
    scale = float(random.choice([0.0625, 0.8]))
    return {**drawn_sizes(random), **drawn_rope(random), "attention_bias": flip(random), "use_qk_norm": flip(random), "logit_scale": scale}


FAMILY = replace(
    LLAMA,
    config=CohereConfig,
    model=CohereForCausalLM,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "query-key-norms": {**GQA, "use_qk_norm": True, "logit_scale": 0.8},
        "mqa-query-key-norms": {**LLAMA.named["mqa-tied"], "use_qk_norm": True},
        "untied-biases": {**GQA, "attention_bias": True, "tie_word_embeddings": False},
        "linear": {**GQA, **scaled("linear")},
    },
    gguf="command-r",
    settings={**LLAMA.settings, "tie_word_embeddings": True},
)
