"""Configurations as they are published (facts, by name) of dense families whose keys or layers are their own: they are understood
whole, and say what the models are."""

from __future__ import annotations

from typing import Any

import pytest

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.arch.rope_spec import Llama3Scaling, YarnScaling
from linnet.arch.spec import ModelSpec, Temperature
from linnet.errors import ModelFileError, UnsupportedModelError

Values = dict[str, Any]
COMMON: Values = {
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
}


def sizes(vocab: int, hidden: int, width: int, layers: int, heads: int, kv_heads: int, context: int) -> Values:
    return {
        **COMMON,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
    }


def gpt_sizes(vocab: int, hidden: int, width: int, layers: int, heads: int, context: int) -> Values:
    names = {"vocab_size": vocab, "n_embd": hidden, "n_inner": width, "n_layer": layers, "n_head": heads, "n_positions": context}
    return {**COMMON, **names}


STARCODER2_3B: Values = {
    **sizes(49152, 3072, 12288, 30, 24, 2, 16384),
    "model_type": "starcoder2",
    "embedding_dropout": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "mlp_type": "default",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "residual_dropout": 0.1,
    "rope_theta": 999999.4420358813,
    "sliding_window": 4096,
    "use_bias": True,
}
STARCODER: Values = {
    **gpt_sizes(49152, 6144, 24576, 40, 48, 8192),
    "model_type": "gpt_bigcode",
    "activation_function": "gelu",
    "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "inference_runner": 0,
    "layer_norm_epsilon": 1e-05,
    "max_batch_size": None,
    "max_sequence_length": None,
    "multi_query": True,
    "pad_key_length": True,
    "pre_allocate_kv_cache": False,
    "resid_pdrop": 0.1,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "validate_runner_input": True,
}
OLMO_3_7B: Values = {
    **sizes(100278, 4096, 11008, 32, 32, 32, 65536),
    "model_type": "olmo3",
    "attention_bias": False,
    "hidden_act": "silu",
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "rope_theta": 500000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}
COMMAND_R7B: Values = {
    **sizes(256000, 4096, 14336, 32, 32, 8, 8192),
    "model_type": "cohere2",
    "attention_bias": False,
    "cache_implementation": "hybrid",
    "head_dim": 128,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": True,
}
MINITRON_4B: Values = {
    **sizes(256000, 3072, 9216, 32, 24, 8, 4096),
    "model_type": "nemotron",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "relu2",
    "mlp_bias": False,
    "norm_eps": 1e-05,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
}
SEED_OSS_36B: Values = {
    **sizes(155136, 5120, 27648, 64, 80, 8, 524288),
    "model_type": "seed_oss",
    "attention_bias": True,
    "attention_out_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "mlp_bias": False,
    "residual_dropout": 0.1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"rope_type": "default"},
    "rope_theta": 10000000.0,
    "tie_word_embeddings": False,
}
EXAONE_3_5_8B: Values = {
    **{key: value for key, value in sizes(102400, 4096, 14336, 32, 32, 8, 32768).items() if key != "num_hidden_layers"},
    "model_type": "exaone",
    "activation_function": "silu",
    "embed_dropout": 0.0,
    "head_dim": 128,
    "layer_norm_epsilon": 1e-05,
    "num_layers": 32,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000,
}
EXAONE_4_32B: Values = {
    **sizes(102400, 5120, 27392, 64, 40, 8, 131072),
    "model_type": "exaone4",
    "head_dim": 128,
    "hidden_act": "silu",
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {**EXAONE_3_5_8B["rope_scaling"], "factor": 16.0},
    "rope_theta": 1000000,
    "sliding_window": 4096,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
}
MPT_7B: Values = {
    "model_type": "mpt",
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
    "d_model": 4096,
    "emb_pdrop": 0,
    "embedding_fraction": 1.0,
    "expansion_ratio": 4,
    "init_config": {"emb_init_std": None, "fan_mode": "fan_in", "init_div_is_residual": True, "init_gain": 0, "name": "kaiming_normal_"},
    "init_device": "cpu",
    "learned_pos_emb": True,
    "logit_scale": None,
    "max_seq_len": 2048,
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "resid_pdrop": 0,
    "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "use_cache": False,
    "verbose": 0,
    "vocab_size": 50432,
}
MINISTRAL_3_8B: Values = {
    "model_type": "mistral3",
    "image_token_index": 10,
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        **sizes(131072, 4096, 14336, 34, 32, 8, 262144),
        "model_type": "ministral3",
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 16.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16384,
            "rope_theta": 1000000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "sliding_window": None,
    },
    "vision_config": {"hidden_size": 1024, "model_type": "pixtral"},
    "vision_feature_layer": -1,
}
HELIUM_1: Values = {
    **sizes(48000, 2560, 7040, 24, 20, 20, 4096),
    "model_type": "helium",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "mlp_bias": False,
    "rms_norm_eps": 1e-08,
    "rope_theta": 100000.0,
    "tie_word_embeddings": False,
}
HUNYUAN_7B: Values = {
    **sizes(128167, 4096, 14336, 32, 32, 8, 32768),
    "model_type": "hunyuan_v1_dense",
    "attention_bias": False,
    "attention_head_dim": 128,
    "cla_share_factor": 2,
    "dense_list": [4096, 0],
    "eod_token_id": 127967,
    "head_dim": 128,
    "hidden_act": "silu",
    "mlp_bias": False,
    "norm_type": "rms",
    "num_experts": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "dynamic",
    },
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "use_cla": False,
    "use_qk_norm": True,
}
ERNIE_4_5_03B: Values = {
    **sizes(103424, 1024, 3072, 18, 16, 2, 131072),
    "model_type": "ernie4_5",
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "use_bias": False,
}


def spec_of(values: Values) -> ModelSpec:
    return build(Config(values, "config.json"))[0]


def parameters(spec: ModelSpec) -> float:
    """In thousands of millions: those of matrices."""
    total = spec.vocab_size * spec.hidden * (1 if spec.tied else 2)
    for layer in spec.layers:
        attention, mlp = layer.attention, spec.dense_block
        total += spec.hidden * (attention.query_width + attention.key_width + attention.value_width + attention.output_width)
        total += spec.hidden * mlp.width * (3 if mlp.gated else 2)
    return total / 1e9


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (STARCODER2_3B, 3.03),
        (STARCODER, 15.5),
        (OLMO_3_7B, 7.3),
        (COMMAND_R7B, 8.03),
        (MINITRON_4B, 4.19),
        (SEED_OSS_36B, 36.2),
        (EXAONE_3_5_8B, 7.8),
        (EXAONE_4_32B, 32.0),
        (MPT_7B, 6.65),
        (MINISTRAL_3_8B, 8.5),
        (HELIUM_1, 2.17),
        (HUNYUAN_7B, 7.5),
        (ERNIE_4_5_03B, 0.36),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_a_published_configuration_is_a_model_of_its_size(values: Values, size: float) -> None:
    assert parameters(spec_of(values)) == pytest.approx(size, rel=0.02)


def test_what_layers_see_and_how_they_turn() -> None:
    olmo, command, exaone = spec_of(OLMO_3_7B), spec_of(COMMAND_R7B), spec_of(EXAONE_4_32B)
    for spec in (olmo, command, exaone):
        assert [layer.attention.window for layer in spec.layers[:8]] == [4096, 4096, 4096, None] * 2
    near, far = (olmo.layers[index].attention.ropes[0] for index in (0, 3))
    assert near.scaling is None
    assert isinstance(far.scaling, YarnScaling)
    assert near.theta == far.theta == 500_000
    for spec in (command, exaone):
        assert [len(layer.attention.ropes) for layer in spec.layers[:4]] == [1, 1, 1, 0]
    assert isinstance(exaone.layers[0].attention.ropes[0].scaling, Llama3Scaling)
    assert spec_of({**EXAONE_4_32B, "sliding_window": None}).layers[3].attention.ropes


def test_what_is_their_own() -> None:
    assert spec_of(HUNYUAN_7B).layers[0].attention.ropes[0].theta == pytest.approx(11_158_839.9251)  # as llama.cpp's converter has it
    attention = spec_of(MINISTRAL_3_8B).layers[0].attention
    assert attention.temperature == Temperature(0.1, 16384)
    assert attention.ropes[0].scaling == YarnScaling(16.0, 16384, 1.0)
    assert spec_of(MINITRON_4B).layers[0].attention.ropes[0].dim == 64
    assert spec_of(MPT_7B).layers[0].attention.alibi is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**MPT_7B, "attn_config": {**MPT_7B["attn_config"], "clip_qkv": 6}}, "clip_qkv = 6"),
        ({**MPT_7B, "attn_config": {**MPT_7B["attn_config"], "qk_ln": True}}, "qk_ln = True"),
        ({**MPT_7B, "attn_config": {**MPT_7B["attn_config"], "alibi": False}}, "alibi is 'False'"),
        ({**MPT_7B, "no_bias": False}, "no_bias is 'False'"),
        ({**MPT_7B, "norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'"),
        ({**MPT_7B, "logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model'"),
        ({**COMMAND_R7B, "use_parallel_block": False}, "use_parallel_block is 'False'"),
        ({**COMMAND_R7B, "layer_switch": 2}, "sliding_window_pattern is '4'; 2, as layer_switch says,"),
        ({**STARCODER, "add_cross_attention": True}, "add_cross_attention = True"),
        ({**HUNYUAN_7B, "use_qk_norm": False}, "use_qk_norm is 'False'"),
        ({**HUNYUAN_7B, "use_cla": True}, "use_cla = True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_change_them_is_refused_by_name(values: Values, message: str) -> None:
    with pytest.raises((UnsupportedModelError, ModelFileError), match=message):
        spec_of(values)
