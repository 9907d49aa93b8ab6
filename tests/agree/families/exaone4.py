"""EXAONE 4: norms after the blocks, windows with rotary positions and layers without either; or rotary positions in all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, State, drawn_rope, flip, scaled
from transformers import Exaone4Config, Exaone4ForCausalLM

NO_WINDOW: Settings = {"sliding_window": None, "layer_types": ["full_attention"] * 3}


def draw(random: np.random.Generator) -> Settings:
    drawn = {**drawn_sizes(random), **drawn_rope(random)}
    if flip(random):
        return {**drawn, "sliding_window": None, "layer_types": ["full_attention"] * drawn["num_hidden_layers"]}
    return {**drawn, "sliding_window": int(random.choice([1, 9, 200])), "sliding_window_pattern": int(random.integers(1, 5))}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`pattern`: a number in place of the list."""
    if values.pop("pattern", False):
        del values["layer_types"]
    return values, state


FAMILY = replace(
    LLAMA,
    config=Exaone4Config,
    model=Exaone4ForCausalLM,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], **NO_WINDOW},
        "window": {**GQA, "sliding_window": 7, "sliding_window_pattern": 2, "pattern": True},
        "listed-llama3": {
            **GQA,
            **scaled("llama3"),
            "sliding_window": 7,
            "sliding_window_pattern": "LLG",
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        "mqa-tied": {**LLAMA.named["mqa-tied"], **NO_WINDOW},
        "yarn": {**GQA, **NO_WINDOW, **scaled("yarn")},
    },
    blocks={**LLAMA.blocks, "sliding_window": 300},
    checkpoint=checkpoint,
    gguf="exaone4",
)
