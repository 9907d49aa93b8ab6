"""CodeGen, and MOSS under its own type with the buffers that it stores."""

from __future__ import annotations

import numpy as np
import torch
from family import CONTEXT, Family, Settings, State, flip
from transformers import CodeGenConfig, CodeGenForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads, pairs = 4 * int(random.integers(1, 4)), int(random.integers(1, 9))
    return {
        "n_embd": heads * 2 * pairs,
        "n_head": heads,
        "n_layer": int(random.integers(1, 4)),
        "n_inner": [None, int(random.integers(20, 90))][random.integers(2)],
        "rotary_dim": 2 * int(random.integers(1, pairs + 1)),
        "activation_function": str(random.choice(["gelu_new", "relu"])),
        "tie_word_embeddings": flip(random),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`moss`: as a checkpoint of MOSS."""
    if not values.pop("moss", False):
        return values, state
    mask = torch.ones(1, 1, CONTEXT, CONTEXT, dtype=torch.bool).tril()
    masks = {f"transformer.h.{layer}.attn.causal_mask": mask for layer in range(values["n_layer"])}
    values |= {"model_type": "moss", "scale_attn_weights": True, "summary_first_dropout": 0.1, "summary_use_proj": True}
    return values, state | masks


FAMILY = Family(
    CodeGenConfig,
    CodeGenForCausalLM,
    draw,
    named={
        "plain": {"n_embd": 64, "n_head": 4},
        "eight-heads": {"n_embd": 80, "n_head": 8, "rotary_dim": 10, "n_inner": 70},
        "moss": {"n_embd": 96, "n_head": 8, "rotary_dim": 4, "moss": True},
        "tied-relu": {"activation_function": "relu", "tie_word_embeddings": True},
    },
    blocks={"n_embd": 256, "n_head": 4, "n_layer": 2, "n_inner": 512},
    checkpoint=checkpoint,
    settings={"n_embd": 60, "n_head": 4, "n_layer": 3, "rotary_dim": 8},
)
