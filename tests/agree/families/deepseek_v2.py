"""DeepSeek V2: latent attention with narrow queries or without, experts in groups, layers without experts, YaRN that sharpens scores."""

from __future__ import annotations

import numpy as np
from families.mixtral import drawn_experts
from family import TRAINED, Family, Settings, drawn_rope, flip
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

YARN: Settings = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": TRAINED}
GROUPS: Settings = {"topk_method": "group_limited_greedy", "n_routed_experts": 12, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}


def draw(random: np.random.Generator) -> Settings:
    heads = int(random.integers(1, 5))
    groups = int(random.integers(2, 4))
    grouped: Settings = {
        "topk_method": "group_limited_greedy",
        "n_routed_experts": 4 * groups,
        "n_group": groups,
        "topk_group": int(random.integers(1, groups + 1)),
        "num_experts_per_tok": int(random.integers(1, 5)),
    }
    return {
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "kv_lora_rank": 2 * int(random.integers(2, 20)),  # transformers takes even ones only, here and for qk_nope_head_dim
        "q_lora_rank": int(random.integers(4, 40)) if flip(random) else None,
        "qk_nope_head_dim": 2 * int(random.integers(1, 10)),
        "qk_rope_head_dim": int(random.choice([4, 6, 8, 14])),
        "v_head_dim": int(random.integers(1, 30)),
        "moe_intermediate_size": int(random.integers(8, 60)),
        "n_shared_experts": int(random.integers(1, 4)),
        "first_k_dense_replace": int(random.integers(0, 3)),
        "routed_scaling_factor": float(random.choice([1.0, 2.5, 16.0])),
        "attention_bias": flip(random),
        "mlp_bias": flip(random),
        "tie_word_embeddings": flip(random),
        **drawn_rope(random),
        **(grouped if flip(random) else drawn_experts(random, "n_routed_experts")),
    }


FAMILY = Family(
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    draw,
    named={
        "plain": {},
        "narrow-queries": {"q_lora_rank": 21},
        "groups": GROUPS,
        "odd-sizes": {"kv_lora_rank": 14, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 7},
        "dense-layers": {"first_k_dense_replace": 2},
        "scaled": {"routed_scaling_factor": 16.0},
        "biases": {"q_lora_rank": 21, "attention_bias": True, "mlp_bias": True},
        "yarn": {"rope_parameters": YARN},
        "yarn-mscale": {"rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
        "yarn-two-mscales": {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 256,
        "q_lora_rank": 256,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "moe_intermediate_size": 256,
    },
    gguf="deepseek2",
    settings={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "moe_intermediate_size": 32,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "tie_word_embeddings": False,
    },
)
