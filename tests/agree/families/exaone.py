"""EXAONE 3: Llama of transformers under the names of keys and tensors of EXAONE's own code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from family import Settings, State, drawn_rope, scaled

KEYS = {"num_hidden_layers": "num_layers", "hidden_act": "activation_function", "rms_norm_eps": "layer_norm_epsilon"}
NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn": "attn.attention",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}


def draw(random: np.random.Generator) -> Settings:
    return {**drawn_sizes(random), **drawn_rope(random)}


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    renamed = {KEYS.get(key, key): value for key, value in values.items() if not key.endswith("_bias")}
    tensors = {}
    for name, tensor in state.items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        tensors[name] = tensor
    return {**renamed, "model_type": "exaone", "embed_dropout": 0.0}, tensors


FAMILY = replace(
    LLAMA,
    draw=draw,
    named={
        "plain": LLAMA.named["plain"],
        "mqa-tied": LLAMA.named["mqa-tied"],
        "llama3": {**GQA, **scaled("llama3")},
    },
    checkpoint=checkpoint,
    gguf="exaone",
)
