"""Falcon: the blocks of 7B, 40B, 11B and RW; RefinedWeb's names of keys; ALiBi.

transformers rounds ALiBi's biases to bfloat16; here heads and positions are such that they are exact. Its eager attention adds them
twice, so that the oracle is its default.
"""

from __future__ import annotations

import numpy as np
from family import Family, Settings, State, drawn_rope, flip
from transformers import FalconConfig, FalconForCausalLM

NEW: Settings = {"new_decoder_architecture": True, "num_attention_heads": 6, "num_kv_heads": 2}
RW: Settings = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "hidden_size": 64, "num_attention_heads": 8}


def draw(random: np.random.Generator) -> Settings:
    alibi, new = flip(random), flip(random)
    kv_heads = int(random.choice([1, 2, 4]))
    heads = kv_heads * int(random.choice([1, 2, 3])) if not alibi else int(random.choice([4, 8]))
    return {
        **drawn_rope(random),
        "alibi": alibi,
        "new_decoder_architecture": new,
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads if new else None,
        "num_ln_in_parallel_attn": [None, 1, 2][random.integers(3)] if new else None,
        "parallel_attn": new or flip(random),
        "multi_query": flip(random),
        "hidden_size": heads * 2 * int(random.integers(20 // heads // 2 + 1, 65 // heads // 2 + 1)),
        "ffn_hidden_size": [None, int(random.integers(20, 90))][random.integers(2)],
        "num_hidden_layers": int(random.integers(1, 4)),
        "bias": flip(random),
        "tie_word_embeddings": flip(random),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """In the words of RefinedWeb's first configurations, where these say as much."""
    if values["ffn_hidden_size"] != 4 * values["hidden_size"] or values["num_ln_in_parallel_attn"] == 1:
        return values, state
    for key, name in {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}.items():
        values[name] = values.pop(key)
    values["model_type"] = "RefinedWeb" if values.pop("new_decoder_architecture") else "RefinedWebModel"
    for key in ("activation", "ffn_hidden_size", "num_ln_in_parallel_attn"):
        del values[key]
    return values, state


FAMILY = Family(
    FalconConfig,
    FalconForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "num_attention_heads": 4},
        "40b": {**NEW, "num_ln_in_parallel_attn": 2},
        "11b": {**NEW, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False, "ffn_hidden_size": 52},
        "alibi": RW,
        "many-keys-parallel": {"multi_query": False, "bias": True},
        "one-key-sequential": {"parallel_attn": False},
    },
    blocks={"hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 512, "num_hidden_layers": 2},
    checkpoint=checkpoint,
    gguf="falcon",
    settings={"hidden_size": 60, "num_attention_heads": 3, "num_hidden_layers": 3, "attn_implementation": "sdpa"},
)
