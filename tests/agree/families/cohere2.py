"""Command R7B: windows with rotary positions and layers that see everything without, in a pattern or listed; Cohere's own keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.cohere import FAMILY as COHERE
from families.phi import drawn_sizes
from family import Settings, State, drawn_rope, flip, scaled
from transformers import Cohere2Config, Cohere2ForCausalLM

GQA: Settings = {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "sliding_window": 7}


def draw(random: np.random.Generator) -> Settings:
    scale, window = float(random.choice([0.0625, 0.8])), int(random.choice([1, 9, 200]))
    sizes = {**drawn_sizes(random), **drawn_rope(random)}
    period = int(random.integers(1, 4))
    return {**sizes, "attention_bias": flip(random), "logit_scale": scale, "sliding_window": window, "sliding_window_pattern": period}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`published`: with the keys of Cohere's own code, and a pattern in place of a list."""
    if values.pop("published", False):
        del values["layer_types"]
        values |= {"layer_switch": 4, "sliding_window_pattern": 4, "rotary_pct": 1.0, "use_qk_norm": False, "use_parallel_block": True}
        values |= {"use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_embedding": False}
    return values, state


FAMILY = replace(
    COHERE,
    config=Cohere2Config,
    model=Cohere2ForCausalLM,
    draw=draw,
    named={
        "plain": {**COHERE.named["plain"], "num_hidden_layers": 4, "sliding_window": 7},
        "published": {**GQA, "num_hidden_layers": 5, "logit_scale": 0.25, "published": True},
        "listed": {**GQA, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        "untied-biases": {**GQA, "attention_bias": True, "tie_word_embeddings": False},
        "linear": {**GQA, **scaled("linear")},
    },
    blocks={"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    checkpoint=checkpoint,
    gguf="cohere2",
    settings={**COHERE.settings, "num_attention_heads": 3},
)
