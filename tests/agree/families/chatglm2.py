"""ChatGLM 2 and 3 and GLM-4 as first published: transformers' GLM under other names and with other words in its configuration;
with biases everywhere and residuals of what was normalised, which published models could have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from family import Family, Settings, State, flip
from torch import nn
from transformers import GlmConfig, GlmForCausalLM
from transformers.models.glm.modeling_glm import GlmDecoderLayer

NAMES = {
    "model.embed_tokens": "transformer.embedding.word_embeddings",
    "model.norm": "transformer.encoder.final_layernorm",
    "model.layers": "transformer.encoder.layers",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.gate_up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
    "lm_head": "transformer.output_layer",
}
CONTEXT_2, RATIO_2 = 8192, 4.0
"""ChatGLM2-6B's context, and how often its successor of 32k has it."""


class NormedResiduals(GlmDecoderLayer):
    def forward(self, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        h = self.input_layernorm(hidden_states)
        h = self.post_attention_layernorm(h + self.self_attn(hidden_states=h, **rest)[0])
        return h + self.mlp(h)


class ChatGlm(GlmForCausalLM):
    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            if config.add_bias_linear:
                for module in (layer.self_attn.o_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj):
                    module.bias = nn.Parameter(torch.zeros(module.out_features))
            if config.apply_residual_connection_post_layernorm:
                layer.__class__ = NormedResiduals


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        state[name.replace("self_attn.q_proj", "self_attention.query_key_value")] = torch.cat(parts)
    for ours, theirs in NAMES.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    state["transformer.rotary_pos_emb.inv_freq"] = torch.ones(values["head_dim"] // 4)
    rope = values["rope_parameters"]
    interpolated = rope["rope_type"] == "linear"
    made = {
        "model_type": "chatglm",
        "num_layers": values["num_hidden_layers"],
        "padded_vocab_size": values["vocab_size"],
        "ffn_hidden_size": values["intermediate_size"],
        "kv_channels": values["head_dim"],
        "layernorm_epsilon": values["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": values["num_key_value_heads"],
        "seq_length": int(CONTEXT_2 * RATIO_2) if interpolated else values["max_position_embeddings"],
        "add_qkv_bias": values["attention_bias"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "original_rope": True,
        "quantization_bit": 0,
        "pre_seq_len": None,
        **dict.fromkeys(("attention_softmax_in_fp32", "bias_dropout_fusion", "apply_query_key_layer_scaling"), True),
        **dict.fromkeys(("fp32_residual_connection", "interleaved_qkv", "prefix_projection"), False),
        **dict.fromkeys(("attention_dropout", "hidden_dropout"), 0.0),
    }
    kept = "hidden_size num_attention_heads tie_word_embeddings add_bias_linear apply_residual_connection_post_layernorm"
    made |= {key: values[key] for key in kept.split()}
    ratio = rope["factor"] if interpolated else rope["rope_theta"] / 10_000
    return (made if ratio == 1 else made | {"rope_ratio": ratio}), state


def rotating(theta: float, **scaling: Any) -> Settings:
    parameters = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5, **scaling}
    return {"rope_parameters": parameters}


GQA: Settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12}


def draw(random: np.random.Generator) -> Settings:
    kv_heads = int(random.choice([1, 2, 3]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    return {
        "hidden_size": heads * int(random.integers(20 // heads + 1, 65 // heads + 1)),
        "intermediate_size": int(random.integers(20, 90)),
        "num_hidden_layers": int(random.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": int(random.choice([8, 12, 16])),
        "attention_bias": flip(random),
        "apply_residual_connection_post_layernorm": flip(random),
        **rotating(10_000 * float(random.choice([1, 50, 500]))),
    }


FAMILY = Family(
    GlmConfig,
    ChatGlm,
    draw,
    named={
        "plain": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        "raised-base": {**GQA, **rotating(500_000.0)},
        "interpolated": {**GQA, **rotating(10_000.0, rope_type="linear", factor=RATIO_2)},
        "biases": {**GQA, "add_bias_linear": True},
        "no-biases": {**GQA, "attention_bias": False},
        "normed-residuals": {**GQA, "apply_residual_connection_post_layernorm": True},
    },
    blocks={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    checkpoint=checkpoint,
    gguf="chatglm",
    settings={
        "hidden_size": 60,
        "intermediate_size": 76,
        "num_hidden_layers": 3,
        "tie_word_embeddings": False,
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
    },
)
