"""Configurations as they are published (facts, by name) of models that transformers runs by code of theirs: Baichuan, ChatGLM,
InternLM 2, Qwen; and of GLM-4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling
from linnet.arch.spec import Attention, Mlp, ModelSpec
from linnet.arch.table import Stored, Table
from linnet.errors import ModelFileError, UnsupportedModelError

COMMON = {"torch_dtype": "float16", "use_cache": True, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
BAICHUAN = {
    **COMMON,
    "model_type": "baichuan",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_max_length": 4096,
    "rms_norm_eps": 1e-06,
}
BAICHUAN_7B = {
    **BAICHUAN,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 64000,
    "max_position_embeddings": 4096,
}
BAICHUAN_2_13B = {
    **BAICHUAN,
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "vocab_size": 125696,
    "_from_model_config": True,
    "gradient_checkpointing": False,
    "z_loss_weight": 0,
}
CHATGLM_6B = {
    "model_type": "chatglm",
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 130528,
}
CHATGLM_3_6B = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GLM_4_9B_1M = {
    **CHATGLM_3_6B,
    "_name_or_path": "THUDM/glm-4-9b-chat-1m",
    "classifier_dropout": None,
    "eos_token_id": [151329, 151336, 151338],
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_group_num": 4,
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "rope_ratio": 10000,
    "seq_length": 1048576,
    "vocab_size": 151552,
}
GLM_4_0414_9B = {
    "model_type": "glm4",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 151552,
}
INTERNLM_2_5_7B = {
    **COMMON,
    "model_type": "internlm2",
    "attn_implementation": "eager",
    "bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1000000,
    "vocab_size": 92544,
}
QWEN_7B = {
    "model_type": "qwen",
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "initializer_range": 0.02,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 32768,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 151936,
}
QWEN_72B = {
    **QWEN_7B,
    "hidden_size": 8192,
    "intermediate_size": 49152,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "vocab_size": 152064,
    "seq_length": 32768,
    "rotary_emb_base": 1000000,
    "use_dynamic_ntk": False,
    "use_logn_attn": False,
}
PUBLISHED = {
    "baichuan_7b": BAICHUAN_7B,
    "baichuan_2_13b": BAICHUAN_2_13B,
    "chatglm_6b": CHATGLM_6B,
    "chatglm_3_6b": CHATGLM_3_6B,
    "glm_4_9b_1m": GLM_4_9B_1M,
    "glm_4_0414_9b": GLM_4_0414_9B,
    "internlm_2_5_7b": INTERNLM_2_5_7B,
    "qwen_7b": QWEN_7B,
    "qwen_72b": QWEN_72B,
}


def built(values: dict[str, Any]) -> tuple[ModelSpec, Table]:
    return build(Config(values, "config.json"))


def spec_of(values: dict[str, Any], **changes: Any) -> ModelSpec:
    return built(values | changes)[0]


def attention_of(values: dict[str, Any]) -> Attention:
    return spec_of(values).layers[0].attention


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_is_understood(name: str) -> None:
    values = PUBLISHED[name]
    spec = spec_of(values)
    assert len(spec.layers) == values.get("num_layers", values.get("num_hidden_layers"))
    assert spec.layers[0].attention.head_dim == 128
    with pytest.raises(UnsupportedModelError, match="another_feature"):
        spec_of(values, another_feature=3)


def test_baichuan_rotates_at_7b_and_has_alibi_at_13b() -> None:
    assert attention_of(BAICHUAN_7B).alibi is None
    assert attention_of(BAICHUAN_7B).ropes[0].theta == 10_000
    large = attention_of(BAICHUAN_2_13B)
    assert large.ropes == ()
    assert large.alibi is not None
    assert large.alibi[:2] == (2**-0.25, 2**-0.5)
    assert large.alibi[32:34] == (2**-0.125, 2**-0.375), "between those of 32 heads"
    assert spec_of(BAICHUAN_2_13B).context == 4096


@pytest.mark.parametrize(
    ("values", "expected"), [(BAICHUAN_7B, False), (BAICHUAN_2_13B, True), (BAICHUAN_7B | {"z_loss_weight": 0.0}, True)]
)
def test_baichuan_2_has_an_output_of_unit_rows(values: dict[str, Any], expected: bool) -> None:
    (row,) = (row for row in built(values)[1].rows if row.field == "output.matrix")
    assert (isinstance(row.hf, Stored) and row.hf.unit_rows) == expected


def test_the_first_chatglm() -> None:
    spec = spec_of(CHATGLM_6B)
    layer = spec.layers[0]
    assert (spec.context, spec.bidirectional_prompt, layer.residual) == (2048, True, "normed")
    assert layer.residual_scale == 56**0.5
    assert layer.mlp == Mlp(16384, "gelu_tanh", gated=False)
    first, second = layer.attention.ropes
    assert (first.dim, first.start, first.positions) == (64, 0, "prompt")
    assert second == replace(first, start=64, positions="block")
    assert isinstance(first.scaling, FactorScaling)
    assert first.scaling.factors[0] == 1, "a frequency of 1 needs no rounding"
    assert max(abs(factor - 1) for factor in first.scaling.factors) < 2**-10
    with pytest.raises(UnsupportedModelError, match="position_encoding_2d"):
        spec_of(CHATGLM_6B, position_encoding_2d=False)
    with pytest.raises(UnsupportedModelError, match="pre_seq_len"):
        spec_of(CHATGLM_6B, pre_seq_len=128)
    with pytest.raises(UnsupportedModelError, match="quantization_bit"):
        spec_of(CHATGLM_6B, quantization_bit=4)


def test_later_ones_raise_the_base_and_chatglm2_of_32k_interpolates() -> None:
    (plain,), (long,) = attention_of(CHATGLM_3_6B).ropes, attention_of(GLM_4_9B_1M).ropes
    assert (plain.dim, plain.theta, plain.interleaved, plain.scaling, plain.context) == (64, 1e4, True, None, 32768)
    assert (long.theta, long.scaling, long.context) == (1e8, None, 2**20)
    (raised,) = spec_of(CHATGLM_3_6B, rope_ratio=50).layers[0].attention.ropes
    assert (raised.theta, raised.scaling) == (5e5, None)
    for changes in ({"rope_ratio": 4.0}, {"rope_ratio": 16.0, "_name_or_path": "THUDM/chatglm2-6b-32k"}):
        (interpolated,) = spec_of(CHATGLM_3_6B, **changes).layers[0].attention.ropes
        assert (interpolated.theta, interpolated.scaling) == (1e4, LinearScaling(changes["rope_ratio"]))


@pytest.mark.parametrize("key", ["rmsnorm", "post_layer_norm", "multi_query_attention"])
def test_what_chatglm_could_do_and_never_did_is_refused(key: str) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        spec_of(CHATGLM_3_6B, **{key: False})


def test_glm_4_normalises_what_comes_out() -> None:
    layer = spec_of(GLM_4_0414_9B).layers[0]
    assert layer.attention_post_norm is not None
    assert layer.mlp_post_norm is not None
    assert layer.attention.ropes[0].dim == 64
    assert spec_of(GLM_4_0414_9B, model_type="glm").layers[0].attention_post_norm is None
    without = {key: value for key, value in GLM_4_0414_9B.items() if key != "partial_rotary_factor"}
    assert attention_of(without) == layer.attention, "half, where the configuration does not say"


def test_internlm_2() -> None:
    (rope,) = attention_of(INTERNLM_2_5_7B).ropes
    assert (rope.theta, rope.scaling) == (1e6, DynamicScaling(2.0))
    assert spec_of(INTERNLM_2_5_7B).context == 65536
    bias = {row.field for row in built(INTERNLM_2_5_7B | {"bias": True})[1].rows} - {row.field for row in built(INTERNLM_2_5_7B)[1].rows}
    assert bias == {f"layers.attention.{name}.bias" for name in ("query", "key", "value", "output")}


def test_qwen_runs_up_to_where_it_would_stretch() -> None:
    assert spec_of(QWEN_7B).context == 8192
    assert spec_of(QWEN_7B, use_dynamic_ntk=False).context == 8192
    assert spec_of(QWEN_7B, use_dynamic_ntk=False, use_logn_attn=False).context == 32768
    assert spec_of(QWEN_72B).context == 32768
    assert spec_of(QWEN_72B).layers[0].mlp == Mlp(24576, "silu"), "half of what the configuration calls it"
    with pytest.raises(ModelFileError, match="intermediate_size"):
        spec_of(QWEN_7B, intermediate_size=22017)
