"""Gemma 4: wider heads, and keys that serve as values, in the layers that see everything; layers that read the keys and values of
earlier ones; embeddings of each layer's own; experts beside the dense block; the text model of a checkpoint that sees and hears."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from family import Family, Settings, State, flip
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

NEAR, FAR = "sliding_attention", "full_attention"
EXPERTS: Settings = {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 20}
SHARED: Settings = {
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 3,
    "layer_types": [NEAR, FAR, NEAR, NEAR, FAR],
    "hidden_size_per_layer_input": 9,  # without which transformers 5.23 cannot run the model
}
AS_VALUES: Settings = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}


def made(config: Any) -> Any:
    """The model, the factors of whose layers are no parameters, with other factors than 1."""
    model = Gemma4ForCausalLM(config)
    for index, layer in enumerate(model.model.layers):
        layer.layer_scalar.fill_(0.75 + 0.25 * index)  # float16 holds these
    return model


def ropes(share: float, theta: float) -> Settings:
    full = {"rope_type": "proportional", "partial_rotary_factor": share, "rope_theta": theta}
    return {"rope_parameters": {FAR: full, NEAR: {"rope_type": "default", "rope_theta": 5e3}}}


def draw(random: np.random.Generator) -> Settings:
    def some(low: int, high: int) -> int:
        return int(random.integers(low, high))

    shared = some(0, 3)
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": some(0, 2) + 1,
        "head_dim": 2 * some(2, 9),
        "global_head_dim": 2 * some(9, 16),
    }
    types = [NEAR, FAR, *([NEAR if flip(random) else FAR for _ in range(shared)] if shared else [NEAR])][: 2 + shared]
    return {
        **heads,
        **ropes(float(random.choice([0.25, 0.5, 1.0])), 1e5),
        **(EXPERTS if flip(random) else {}),
        **(AS_VALUES if flip(random) else {}),
        "hidden_size": some(20, 60),
        "intermediate_size": some(20, 60),
        "num_hidden_layers": len(types),
        "num_kv_shared_layers": shared,
        "layer_types": [*types[:-1], FAR],
        "hidden_size_per_layer_input": max(shared > 0, some(0, 2)) * some(3, 20),
        "use_double_wide_mlp": flip(random),
        "sliding_window": some(1, 40),
        "attention_bias": flip(random),
        "tie_word_embeddings": flip(random),
    }


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """`published`: of a model that sees and hears, whose layers have keys and values that nothing reads, and the sizes of whose layers
    are said in other words."""
    if not values.pop("published", False):
        return values, state
    full = next(own for own in values.pop("per_layer_config").values())
    values |= {"global_head_dim": full["head_dim"], "num_global_key_value_heads": full.get("num_key_value_heads")}
    outer = {"model_type": "gemma4", "text_config": values, "vision_config": {"hidden_size": 768}, "audio_config": {"hidden_size": 1024}}
    outer |= {"boi_token_id": 255_999, "eoa_token_index": 258_883, "vision_soft_tokens_per_image": 280}
    inner = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in state.items()}
    for name in ("k_proj", "v_proj", "k_norm"):
        inner[f"model.language_model.layers.4.self_attn.{name}.weight"] = torch.ones(8)
    towers = ("vision_tower.post_layernorm", "audio_tower.norm", "embed_vision.embedding_projection", "embed_audio.norm")
    return outer, inner | {f"model.{name}.weight": torch.ones(8) for name in towers}


FAMILY = Family(
    Gemma4TextConfig,
    made,
    draw,
    named={
        "plain": {"num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "global_head_dim": 32},
        "small": {**SHARED, "use_double_wide_mlp": True},
        "published": {**SHARED, "published": True},
        "large": {**AS_VALUES, "layer_types": [NEAR, FAR, FAR]},
        "shared-as-values": {**SHARED, **AS_VALUES},
        "experts": {**EXPERTS, **AS_VALUES},
        "experts-per-layer": {**EXPERTS, "hidden_size_per_layer_input": 7},
        "uncapped-untied": {"final_logit_softcapping": None, "tie_word_embeddings": False},
        "biases": {**SHARED, "attention_bias": True},
        "half": ropes(0.5, 1e4),
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "global_head_dim": 256,
        **SHARED,
        "hidden_size_per_layer_input": 256,
    },
    checkpoint=checkpoint,
    gguf="gemma4",
    settings={
        "hidden_size": 44,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "global_head_dim": 16,
        "layer_types": [NEAR, NEAR, FAR],
        "sliding_window": 7,
        "final_logit_softcapping": 4.0,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 101,
        **ropes(0.25, 1e4),
    },
)
