"""GPT-2: its scalings of scores, its own width of the feed-forward block, an output of its own, and names without a prefix."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, State, flip
from transformers import GPT2Config, GPT2LMHeadModel


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5, 8]))
    return {
        "n_head": heads,
        "n_embd": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "n_layer": int(random.integers(1, 4)),
        "n_inner": [None, int(random.integers(20, 90))][random.integers(2)],
        "activation_function": str(random.choice(["gelu_new", "gelu", "relu", "silu"])),
        "scale_attn_weights": flip(random),
        "scale_attn_by_inverse_layer_idx": flip(random),
        "reorder_and_upcast_attn": flip(random),
        "tie_word_embeddings": flip(random),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """As the first checkpoints were saved: no prefix, and masks among the tensors."""
    if values["tie_word_embeddings"]:
        state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
        state["h.0.attn.bias"] = state["wpe.weight"].new_ones(1, 1, 160, 160).tril()
    return values, state


FAMILY = Family(
    GPT2Config,
    GPT2LMHeadModel,
    draw,
    named={
        "plain": {"n_embd": 64, "n_head": 4},
        "untied": {"tie_word_embeddings": False, "n_inner": 52},
        "scaled-by-layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        "unscaled": {"scale_attn_weights": False, "activation_function": "relu"},
    },
    blocks={"n_embd": 256, "n_layer": 2, "n_head": 4, "n_inner": 512},
    checkpoint=checkpoint,
    gguf="gpt2",
    settings={"n_embd": 60, "n_head": 3, "n_layer": 3},
)
