"""OPT: norms before and after, an embedding narrower or wider than the layers, no biases (Galactica), norms without weights."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, State, flip
from transformers import OPTConfig, OPTForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5, 8]))
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "ffn_dim": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "word_embed_proj_dim": [None, int(random.integers(10, 90))][random.integers(2)],
        "do_layer_norm_before": flip(random),
        "enable_bias": flip(random),
        "layer_norm_elementwise_affine": flip(random),
        "activation_function": str(random.choice(["relu", "gelu"])),
        "tie_word_embeddings": flip(random),
        "_remove_final_layer_norm": flip(random),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """As the decoder by itself is saved."""
    if values["tie_word_embeddings"] and values["do_layer_norm_before"]:
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return values, state


FAMILY = Family(
    OPTConfig,
    OPTForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "num_attention_heads": 4, "ffn_dim": 96},
        "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 34},
        "galactica": {"enable_bias": False, "activation_function": "gelu", "tie_word_embeddings": False},
        "plain-norms": {"layer_norm_elementwise_affine": False, "word_embed_proj_dim": 90},
        "no-final-norm": {"_remove_final_layer_norm": True},
    },
    blocks={"hidden_size": 256, "num_attention_heads": 4, "ffn_dim": 512, "num_hidden_layers": 2},
    checkpoint=checkpoint,
    settings={"hidden_size": 60, "num_attention_heads": 3, "ffn_dim": 52, "num_hidden_layers": 3},
)
