"""Phi 3 and 4: packed matrices, LongRoPE within and past the first context, a window, heads rotated in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.phi import FAMILY as PHI
from families.phi import GQA, PLAIN, drawn_sizes
from family import TRAINED, Settings, flip
from transformers import Phi3Config, Phi3ForCausalLM


def longrope(random: np.random.Generator, pairs: int, original: int, **more: object) -> Settings:
    """Rotary settings in the words of the published models, with random factors for each of `pairs`."""
    short, long = random.uniform(1, 1.5, pairs).tolist(), random.uniform(1, 9, pairs).tolist()
    scaling = {"type": "longrope", "short_factor": short, "long_factor": long, **more}
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}


def draw(random: np.random.Generator) -> Settings:
    sizes = drawn_sizes(random)
    pairs = sizes["hidden_size"] // sizes["num_attention_heads"] // 2
    turned = int(random.integers(1, pairs + 1))
    rope = longrope(random, turned, int(random.choice([TRAINED, 100]))) if flip(random) else {}
    window = {"sliding_window": [None, 5, 40][random.integers(3)]}
    return {**sizes, **rope, **window, "partial_rotary_factor": turned / pairs}


RANDOM = np.random.default_rng(3)

FAMILY = replace(
    PHI,
    config=Phi3Config,
    model=Phi3ForCausalLM,
    draw=draw,
    named={
        "plain": PLAIN,
        "window": {**GQA, "sliding_window": 7},
        "long": {**GQA, **longrope(RANDOM, 6, TRAINED)},
        "short": {**GQA, **longrope(RANDOM, 6, 100)},
        "long-own-factor": {**GQA, **longrope(RANDOM, 6, TRAINED, attention_factor=0.7)},
        "phi-4-mini": {
            **GQA,
            "hidden_size": 96,
            **longrope(RANDOM, 6, TRAINED),
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
        },
    },
    gguf="phi3",
)
