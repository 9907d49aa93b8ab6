"""OLMo 2 and 3: norms after the blocks, queries and keys normalised over their whole width; OLMo 3's windows and two rotary settings,
also in the words of its first configurations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import SCALINGS, Settings, State, drawn_rope, flip, scaled
from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, PreTrainedConfig, PreTrainedModel


def ropes(kind: str, nearby: float = 5e5) -> Settings:
    """OLMo 3's rotary settings: a base for all, which the layers that see everything scale."""
    scaling = {"rope_type": "default"} if kind == "default" else SCALINGS[kind]
    sliding = {"rope_type": "default", "rope_theta": nearby}
    return {"rope_parameters": {"full_attention": {**scaling, "rope_theta": 5e5}, "sliding_attention": sliding}}


WINDOW: Settings = {"sliding_window": 7, "num_hidden_layers": 4, **ropes("yarn")}


def make_config(sliding_window: int | None = None, **settings: Any) -> PreTrainedConfig:
    return Olmo2Config(**settings) if sliding_window is None else Olmo3Config(sliding_window=sliding_window, **settings)


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    return Olmo3ForCausalLM(config) if isinstance(config, Olmo3Config) else Olmo2ForCausalLM(config)


def draw(random: np.random.Generator) -> Settings:
    drawn = {**drawn_sizes(random), "attention_bias": flip(random)}
    if flip(random):
        return {**drawn, **drawn_rope(random)}
    rotated = ropes(str(random.choice(["default", "linear", "yarn", "llama3"])), float(random.choice([1e4, 5e5])))
    return {**drawn, **rotated, "num_hidden_layers": int(random.integers(1, 6)), "sliding_window": int(random.choice([1, 9, 200]))}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`older`: as OLMo 3 was published."""
    if values.pop("older", False):
        full = values.pop("rope_parameters")["full_attention"]
        values |= {"rope_theta": full.pop("rope_theta"), "rope_scaling": full}
        del values["layer_types"]
    return values, state


FAMILY = replace(
    LLAMA,
    config=make_config,
    model=make_model,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "gqa": GQA,
        "mqa-tied": LLAMA.named["mqa-tied"],
        "biases": {**GQA, "attention_bias": True},
        "yarn": {**GQA, **scaled("yarn")},
        "third": {**LLAMA.named["plain"], **WINDOW},
        "third-older": {**GQA, **WINDOW, "older": True},
        "third-listed": {
            **GQA,
            **WINDOW,
            **ropes("linear", 1e4),
            "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
        },
    },
    checkpoint=checkpoint,
    gguf="olmo2",
)
