"""nanochat as transformers has it: any cap of the logits, several queries to a key, biases, a tied output. Its own checkpoints, which
transformers does not read, are in tests/load/test_torch_checkpoints.py."""

from __future__ import annotations

import numpy as np
from family import Family, Settings, flip
from transformers import NanoChatConfig, NanoChatForCausalLM


def draw(random: np.random.Generator) -> Settings:
    kv_heads, sharing = int(random.integers(1, 4)), int(random.integers(1, 4))
    return {
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * sharing,
        "hidden_size": kv_heads * sharing * 2 * int(random.integers(2, 12)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "final_logit_softcapping": [None, 15.0, 3.0][random.integers(3)],
        "rms_norm_eps": float(random.choice([1e-6, 1e-3])),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(random.choice([1e4, 1e5]))},
        "attention_bias": flip(random),
        "tie_word_embeddings": flip(random),
        "hidden_act": str(random.choice(["relu2", "relu2", "gelu"])),
    }


FAMILY = Family(
    NanoChatConfig,
    NanoChatForCausalLM,
    draw,
    named={
        "plain": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96},
        "shared-keys": {"num_key_value_heads": 1, "attention_bias": True},
        "uncapped": {"final_logit_softcapping": None, "tie_word_embeddings": True},
    },
    blocks={"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512},
    settings={
        "hidden_size": 60,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "intermediate_size": 76,
        "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
)
