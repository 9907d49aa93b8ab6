"""dots.llm1: windows by number or by type of layer, experts in groups or not, with a shared block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.deepseek_v3 import GROUPS, with_corrections
from families.glm4_moe import MIXTURE, PLAIN, drawn_mixture
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, drawn_rope, flip
from transformers import Dots1Config, Dots1ForCausalLM, PreTrainedModel


def make_model(config: Any) -> PreTrainedModel:
    return with_corrections(Dots1ForCausalLM(config))


def draw(random: np.random.Generator) -> Settings:
    own = {"sliding_window": 9, "max_window_layers": int(random.integers(0, 4)), "attention_bias": flip(random)}
    return {**drawn_sizes(random), **drawn_mixture(random), **drawn_rope(random), **own}


FAMILY = replace(
    LLAMA,
    config=Dots1Config,
    model=make_model,
    draw=draw,
    named={
        "plain": {**PLAIN, "num_key_value_heads": 4},
        "groups-biases": {**GQA, **GROUPS, "norm_topk_prob": False, "attention_bias": True},
        "upper-window": {**GQA, "sliding_window": 7, "max_window_layers": 1},
        "windows-by-type": {**GQA, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    },
    blocks={**LLAMA.blocks, "moe_intermediate_size": 256},
    gguf="dots1",
    settings={**LLAMA.settings, **MIXTURE, "num_hidden_layers": 2},
)
