"""Configurations as they are published (facts, by name) of families whose keys, defaults or layers are their own."""

from typing import Any

import numpy as np
import pytest

from linnet.arch.config import Config
from linnet.arch.gguf_config import gguf_config
from linnet.arch.registry import build
from linnet.arch.rope_spec import LinearScaling, LongScaling
from linnet.arch.spec import Mlp, ModelSpec
from linnet.errors import ModelFileError, UnsupportedModelError

COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def sizes(vocab: int, hidden: int, width: int, layers: int, heads: int, kv_heads: int, context: int) -> dict[str, Any]:
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


GEMMA_2B = {
    **sizes(256000, 2048, 16384, 18, 8, 1, 8192),
    "model_type": "gemma",
    "attention_bias": False,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
GEMMA_2_27B = {
    **sizes(256000, 4608, 36864, 46, 32, 16, 8192),
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 128,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 144,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
}
GEMMA_3_4B = {  # google/gemma-3-4b-it: what the text model has by default is left out
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "image_size": 896, "num_hidden_layers": 27, "vision_use_head": False},
}
PHI_2 = {
    **sizes(51200, 2560, 10240, 32, 32, 32, 2048),
    "model_type": "phi",
    "embd_pdrop": 0.0,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-05,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
PHI_4_MINI = {
    **sizes(200064, 3072, 8192, 32, 24, 8, 131072),
    "model_type": "phi3",
    "attention_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [1.0 + i for i in range(48)], "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
}
COMMAND_R_PLUS = {
    **sizes(256000, 12288, 33792, 64, 96, 8, 8192),
    "model_type": "cohere",
    "attention_bias": False,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.8333333333333334,
    "model_max_length": 131072,
    "rope_theta": 75000000.0,
    "use_qk_norm": True,
}
SMOLLM3_3B = {
    **sizes(128256, 2048, 11008, 36, 16, 4, 65536),
    "model_type": "smollm3",
    "attention_bias": False,
    "hidden_act": "silu",
    "layer_types": ["full_attention"] * 36,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
MOSS_MOON = {
    **COMMON,
    "model_type": "moss",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "gradient_checkpointing": False,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 2048,
    "n_embd": 6144,
    "n_head": 24,
    "n_inner": None,
    "n_layer": 34,
    "n_positions": 2048,
    "rotary_dim": 64,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
    "tie_word_embeddings": False,
    "vocab_size": 107008,
}


def spec_of(values: dict[str, Any]) -> ModelSpec:
    return build(Config(values, "config.json"))[0]


def gguf_spec(architecture: str, factors: dict[str, list[float]] | None = None, **extra: Any) -> ModelSpec:
    """ "__" stands for "."."""
    keys = {"block_count": 6, "context_length": 256, "embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4}
    keys |= {"attention.layer_norm_rms_epsilon": 1e-5, **{key.replace("__", "."): value for key, value in extra.items()}}
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}
    return build(gguf_config(metadata, "m.gguf", {"token_embd.weight": (50, 64)}, factors))[0]


def test_gemma_means_the_approximation_by_gelu():
    spec = spec_of(GEMMA_2B)
    assert isinstance(spec.layers[0].mlp, Mlp)
    assert (spec.layers[0].mlp.activation, spec.embedding.scale, spec.tied) == ("gelu_tanh", 2048**0.5, True)


def test_gemma_2_27b_scales_by_its_own_number_also_from_gguf():
    spec = spec_of(GEMMA_2_27B)
    assert [layer.attention.window for layer in spec.layers[:3]] == [4096, None, 4096]
    assert {layer.attention.scale for layer in spec.layers} == {1 / 12}
    large = gguf_spec("gemma2", block_count=46, embedding_length=4608, attention__head_count=32, attention__key_length=128)
    assert {layer.attention.scale for layer in large.layers} == {1 / 12}
    assert {layer.attention.scale for layer in gguf_spec("gemma2", attention__key_length=36).layers} == {1 / 6}


def test_gemma_3_takes_what_the_text_model_has_by_default():
    spec = spec_of(GEMMA_3_4B)
    attention = spec.layers[0].attention
    assert (spec.family, spec.vocab_size, spec.context, spec.tied) == ("gemma3", 262208, 131072, True)
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.scale) == (8, 4, 256, 1 / 16)
    assert [layer.attention.window for layer in spec.layers[:7]] == [1024] * 5 + [None, 1024]
    nearby, everywhere = spec.layers[4].attention.ropes[0], spec.layers[5].attention.ropes[0]
    assert (nearby.theta, nearby.scaling, everywhere.theta, everywhere.scaling) == (1e4, None, 1e6, LinearScaling(8.0))


def test_gemma_3_without_its_text_model_is_refused():
    with pytest.raises(ModelFileError, match="text_config"):
        spec_of({**GEMMA_3_4B, "text_config": None})


def test_gguf_tells_windows_by_number_or_by_layer():
    def windows(spec: ModelSpec) -> list[int | None]:
        return [layer.attention.window for layer in spec.layers]

    gemma3 = {"attention__key_length": 16, "rope__freq_base": 1e6}
    assert windows(gguf_spec("gemma3", **gemma3, attention__sliding_window=9)) == [9] * 5 + [None]
    assert windows(gguf_spec("gemma3", **gemma3, attention__sliding_window=9, attention__sliding_window_pattern=2)) == [9, None] * 3
    listed = np.array([False, True, False, True, True, False])
    assert windows(gguf_spec("gemma3", **gemma3, attention__sliding_window=9, attention__sliding_window_pattern=listed)) == [
        9 if slides else None for slides in listed
    ]
    plain = gguf_spec("gemma3", **gemma3)
    assert {layer.attention.ropes[0].theta for layer in plain.layers} == {1e6}
    assert windows(plain) == windows(gguf_spec("phi3", attention__sliding_window=0)) == [None] * 6


def test_phi_rotates_part_of_a_head():
    assert (spec_of(PHI_2).layers[0].attention.ropes[0].dim, spec_of(PHI_2).layers[0].parallel) == (32, True)
    spec = spec_of(PHI_4_MINI)
    rope = spec.layers[0].attention.ropes[0]
    assert isinstance(rope.scaling, LongScaling)
    assert (rope.dim, rope.scaling.original_context, spec.context) == (96, 4096, 131072)
    assert rope.scaling.attention_factor == pytest.approx(1.1902380714238083)
    with pytest.raises(UnsupportedModelError, match="full_attn_mod"):
        spec_of({**PHI_4_MINI, "full_attn_mod": 4})
    with pytest.raises(ModelFileError, match=r"rope_scaling\.long_factor .* 48 positive factors"):
        spec_of({**PHI_4_MINI, "rope_scaling": {**PHI_4_MINI["rope_scaling"], "long_factor": [1.0] * 64}})


def test_long_factors_of_gguf():
    factors = {"rope_factors_long.weight": [2.0] * 8, "rope_factors_short.weight": [1.0] * 8}
    spec = gguf_spec("phi3", factors, rope__scaling__original_context_length=64, rope__scaling__attn_factor=1.25)
    assert spec.layers[0].attention.ropes[0].scaling == LongScaling((1.0,) * 8, (2.0,) * 8, 64, 1.25)
    del factors["rope_factors_short.weight"]
    with pytest.raises(ModelFileError, match=r"rope_factors_short\.weight .* 8 positive factors"):
        gguf_spec("phi3", factors)


def test_command_r_was_made_for_more_than_its_positions_say():
    spec = spec_of(COMMAND_R_PLUS)
    assert (spec.context, spec.output.scale, spec.layers[0].parallel, spec.layers[0].attention.query_norm is None) == (
        131072,
        0.8333333333333334,
        True,
        False,
    )


def test_smollm3_has_layers_without_positions():
    assert [len(layer.attention.ropes) for layer in spec_of(SMOLLM3_3B).layers] == [1, 1, 1, 0] * 9
    with pytest.raises(ModelFileError, match="no_rope_layers"):
        spec_of({**SMOLLM3_3B, "no_rope_layers": [1, 1]})


def test_granite_without_positions_is_said_by_gguf():
    granite = {"logit_scale": 8.0, "rope__scaling__finetuned": False}
    assert gguf_spec("granite", **granite).layers[0].attention.ropes == ()


def test_moss_is_codegen():
    spec = spec_of(MOSS_MOON)
    attention = spec.layers[0].attention
    assert (spec.family, attention.heads, attention.head_dim, attention.ropes[0].dim) == ("codegen", 24, 256, 64)
    assert isinstance(spec.layers[0].mlp, Mlp)
    assert spec.layers[0].mlp.width == 4 * 6144
    for odd in ({"n_head": 6}, {"rotary_dim": 63}, {"rotary_dim": 258}):
        with pytest.raises(ModelFileError, match=next(iter(odd))):
            spec_of({**MOSS_MOON, **odd})
