"""BLOOM: numbers of heads that are powers of two and that are not, residuals after the norm, names without a prefix."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, State, flip
from transformers import BloomConfig, BloomForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5, 6, 8, 12]))
    return {
        "n_head": heads,
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "n_layer": int(random.integers(1, 4)),
        "apply_residual_connection_post_layernorm": flip(random),
        "tie_word_embeddings": flip(random),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """As the first checkpoints were saved: no prefix, and keys of the training's code."""
    values |= {"attention_softmax_in_fp32": True, "n_inner": None, "offset_alibi": 100, "seq_length": values.pop("max_position_embeddings")}
    if values["tie_word_embeddings"]:
        state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
        values["n_embed"] = values.pop("hidden_size")
    return values, state


FAMILY = Family(
    BloomConfig,
    BloomForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "n_head": 4},
        "residual-after-norm": {"apply_residual_connection_post_layernorm": True},
        "twelve-heads-untied": {"n_head": 12, "tie_word_embeddings": False},
    },
    blocks={"hidden_size": 256, "n_head": 4, "n_layer": 2},
    checkpoint=checkpoint,
    gguf="bloom",
    settings={"hidden_size": 60, "n_head": 3, "n_layer": 3},
)
