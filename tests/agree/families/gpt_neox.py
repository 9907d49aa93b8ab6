"""GPT-NeoX: parallel and sequential layers, part of each head rotated, every rotary scaling, attention without biases."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, drawn_rope, flip, scaled
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.choice([1, 2, 3, 5]))
    rope = drawn_rope(random)
    rope["rope_parameters"] = {**rope["rope_parameters"], "partial_rotary_factor": float(random.choice([0.25, 0.5, 1.0]))}
    return {
        **rope,
        "num_attention_heads": heads,
        "hidden_size": heads * int(random.choice([8, 16, 24])),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "hidden_act": str(random.choice(["gelu", "gelu_fast", "relu", "silu"])),
        "use_parallel_residual": flip(random),
        "attention_bias": flip(random),
        "tie_word_embeddings": flip(random),
    }


def partial(settings: Settings, factor: float) -> Settings:
    return {**settings, "rope_parameters": {**settings["rope_parameters"], "partial_rotary_factor": factor}}


FAMILY = Family(
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96},
        "sequential": {"use_parallel_residual": False},
        "no-biases-tied": {"attention_bias": False, "tie_word_embeddings": True, "hidden_act": "gelu_fast"},
        "yarn": partial(scaled("yarn"), 0.5),
        "dynamic": partial(scaled("dynamic"), 1.0),
    },
    blocks={"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512, "num_hidden_layers": 2},
    gguf="gptneox",
    settings={"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 52, "num_hidden_layers": 3},
)
