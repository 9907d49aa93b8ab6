"""What families say in config.json that others do not, or in their own way: the inverse of what each reads there."""

from __future__ import annotations

from collections.abc import Callable, Container
from math import log2
from typing import Any

from linnet.arch.hf_rope import ways_to_scale
from linnet.arch.rope_spec import LongScaling
from linnet.arch.spec import Layer, ModelSpec, Moe

Values = dict[str, Any]
Fields = Container[tuple[int | None, str]]

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "relu_squared": "relu2"}


def _moe(spec: ModelSpec) -> Moe | None:
    return next((layer.mlp for layer in spec.layers if isinstance(layer.mlp, Moe)), None)


def _biases(spec: ModelSpec, fields: Fields) -> Values:
    return {"attention_bias": (0, "attention.query.bias") in fields, "mlp_bias": (0, "mlp.up.bias") in fields}


def _attention_bias(spec: ModelSpec, fields: Fields) -> Values:
    return {"attention_bias": (0, "attention.query.bias") in fields}


def _window(spec: ModelSpec, fields: Fields) -> Values:
    return {"sliding_window": spec.layers[0].attention.window}


def _nothing(spec: ModelSpec, fields: Fields) -> Values:
    return {}


def _mixtral(spec: ModelSpec, fields: Fields) -> Values:
    moe = _moe(spec)
    assert moe is not None
    return {**_window(spec, fields), "num_local_experts": moe.experts, "num_experts_per_tok": moe.router.active}


def _experts(spec: ModelSpec, fields: Fields) -> Values:
    moe = _moe(spec)
    assert moe is not None
    shared = {"shared_expert_intermediate_size": moe.shared.width} if moe.shared else {}
    return {
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.router.active,
        "moe_intermediate_size": moe.expert.width,
        "norm_topk_prob": moe.router.normalise,
        **shared,
    }


def _qwen3_moe(spec: ModelSpec, fields: Fields) -> Values:
    return {**_experts(spec, fields), **_attention_bias(spec, fields)}


def _gemma2(spec: ModelSpec, fields: Fields) -> Values:
    attention = spec.layers[0].attention
    return {
        "hidden_activation": ACTIVATIONS[spec.dense_block.activation],
        "query_pre_attn_scalar": round(attention.scale**-2),
        "attn_logit_softcapping": attention.softcap,
        "final_logit_softcapping": spec.output.softcap,
        "sliding_window": _any_window(spec),
        **_attention_bias(spec, fields),
    }


def _gemma3(spec: ModelSpec, fields: Fields) -> Values:
    nearby = [layer.attention.ropes[0].theta for layer in spec.layers if layer.attention.window is not None]
    said = {name: value for name, value in _gemma2(spec, fields).items() if name != "attn_logit_softcapping"}
    return {**said, "layer_types": _layer_types(spec), **({"rope_local_base_freq": nearby[0]} if nearby else {})}


def _any_window(spec: ModelSpec) -> int | None:
    return next((layer.attention.window for layer in spec.layers if layer.attention.window is not None), None)


def _layer_types(spec: ModelSpec) -> list[str]:
    def kind(layer: Layer) -> str:
        return "full_attention" if layer.attention.window is None else "sliding_attention"

    return [kind(layer) for layer in spec.layers]


def _granite(spec: ModelSpec, fields: Fields) -> Values:
    layer = spec.layers[0]
    return {
        **_biases(spec, fields),
        "attention_multiplier": layer.attention.scale,
        "embedding_multiplier": spec.embedding.scale,
        "residual_multiplier": layer.branch_scale,
        "logits_scaling": 1 / spec.output.scale,
    }


def _smollm3(spec: ModelSpec, fields: Fields) -> Values:
    return {**_biases(spec, fields), "no_rope_layers": [int(bool(layer.attention.ropes)) for layer in spec.layers]}


def _phi(spec: ModelSpec, fields: Fields) -> Values:
    return {"qk_layernorm": spec.layers[0].attention.query_norm is not None, "partial_rotary_factor": _rotary_share(spec)}


def _phi3(spec: ModelSpec, fields: Fields) -> Values:
    rope = spec.main_rope
    scaling = None if rope is None else rope.scaling
    original = {"original_max_position_embeddings": scaling.original_context} if isinstance(scaling, LongScaling) else {}
    return {**_window(spec, fields), **original}


def _rotary_share(spec: ModelSpec) -> float:
    rope = spec.main_rope
    return 1.0 if rope is None else rope.dim / spec.layers[0].attention.head_dim


def _gpt_neox(spec: ModelSpec, fields: Fields) -> Values:
    rope = spec.main_rope
    assert rope is not None
    return {
        "use_parallel_residual": spec.layers[0].parallel,
        "rotary_pct": _rotary_share(spec),
        "rotary_emb_base": rope.theta,
        **_attention_bias(spec, fields),
    }


def _stablelm(spec: ModelSpec, fields: Fields) -> Values:
    layer = spec.layers[0]
    return {
        "use_parallel_residual": layer.parallel,
        "qk_layernorm": layer.attention.query_norm is not None,
        "partial_rotary_factor": _rotary_share(spec),
        "use_qkv_bias": (0, "attention.query.bias") in fields,
    }


def _cohere(spec: ModelSpec, fields: Fields) -> Values:
    normed = spec.layers[0].attention.query_norm is not None
    return {"use_qk_norm": normed, "logit_scale": spec.output.scale, **_attention_bias(spec, fields)}


def _glm(spec: ModelSpec, fields: Fields) -> Values:
    return {"partial_rotary_factor": _rotary_share(spec), **_attention_bias(spec, fields)}


def _falcon(spec: ModelSpec, fields: Fields) -> Values:
    layer = spec.layers[0]
    attention = layer.attention
    two_norms = layer.parallel and layer.mlp_norm is not None
    new = two_norms or 1 < attention.kv_heads < attention.heads
    assert layer.attention_norm is not None
    return {
        "new_decoder_architecture": new,
        "num_kv_heads": attention.kv_heads,
        "multi_query": attention.kv_heads == 1,
        "parallel_attn": layer.parallel,
        "bias": (0, "attention.query.bias") in fields,
        "alibi": attention.alibi is not None,
        "ffn_hidden_size": spec.dense_block.width,
        "activation": ACTIVATIONS[spec.dense_block.activation],
        "layer_norm_epsilon": layer.attention_norm.epsilon,
        **({"num_ln_in_parallel_attn": 1 + two_norms} if new else {}),
    }


def _bloom(spec: ModelSpec, fields: Fields) -> Values:
    layer = spec.layers[0]
    assert layer.attention_norm is not None
    return {
        "n_layer": len(spec.layers),
        "n_head": layer.attention.heads,
        "seq_length": spec.context,
        "layer_norm_epsilon": layer.attention_norm.epsilon,
        "apply_residual_connection_post_layernorm": layer.residual == "normed",
    }


def _gpt_oss(spec: ModelSpec, fields: Fields) -> Values:
    moe = _moe(spec)
    assert moe is not None
    return {
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.router.active,
        "sliding_window": _any_window(spec),
        "layer_types": _layer_types(spec),
        **_attention_bias(spec, fields),
    }


def _gpt2(spec: ModelSpec, fields: Fields) -> Values:
    named = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
    layer = spec.layers[0]
    assert layer.attention_norm is not None
    return {
        "n_embd": spec.hidden,
        "n_layer": len(spec.layers),
        "n_head": layer.attention.heads,
        "n_inner": spec.dense_block.width,
        "n_positions": spec.context,
        "activation_function": named[spec.dense_block.activation],
        "layer_norm_epsilon": layer.attention_norm.epsilon,
    }


def _cohere2(spec: ModelSpec, fields: Fields) -> Values:
    windows = {"sliding_window": _any_window(spec), "layer_types": _layer_types(spec)}
    return {"logit_scale": spec.output.scale, **windows, **_attention_bias(spec, fields)}


def _ernie4_5(spec: ModelSpec, fields: Fields) -> Values:
    return {"use_bias": (0, "attention.query.bias") in fields}


def _exaone4(spec: ModelSpec, fields: Fields) -> Values:
    return {"sliding_window": _any_window(spec), "layer_types": _layer_types(spec)}


def _gpt_bigcode(spec: ModelSpec, fields: Fields) -> Values:
    return {**_gpt2(spec, fields), "multi_query": spec.layers[0].attention.kv_heads == 1}


def _ministral3(spec: ModelSpec, fields: Fields) -> Values:
    rope, temperature = spec.main_rope, spec.layers[0].attention.temperature
    assert rope is not None
    assert temperature is not None
    kept = {"original_max_position_embeddings": temperature.length, "llama_4_scaling_beta": temperature.beta}
    scaling = ways_to_scale(rope)[0] or {"rope_type": "default"}
    return {**_window(spec, fields), "rope_parameters": {**scaling, "rope_theta": rope.theta, **kept}}


def _mpt(spec: ModelSpec, fields: Fields) -> Values:
    layer = spec.layers[0]
    slopes = layer.attention.alibi
    assert layer.attention_norm is not None
    assert slopes is not None
    steepest = round(-log2(slopes[2 ** (len(slopes).bit_length() - 1) - 1]))
    return {
        "d_model": spec.hidden,
        "n_layers": len(spec.layers),
        "n_heads": layer.attention.heads,
        "max_seq_len": spec.context,
        "layer_norm_epsilon": layer.attention_norm.epsilon,
        "attn_config": {"softmax_scale": layer.attention.scale, "alibi_bias_max": steepest},
    }


def _nemotron(spec: ModelSpec, fields: Fields) -> Values:
    norm = spec.layers[0].attention_norm
    assert norm is not None
    return {"norm_eps": norm.epsilon, "partial_rotary_factor": _rotary_share(spec), **_biases(spec, fields)}


def _olmo3(spec: ModelSpec, fields: Fields) -> Values:
    everywhere, nearby = spec.main_rope, next(layer.attention.ropes[0] for layer in spec.layers if layer.attention.window is not None)
    assert everywhere is not None
    full = {**(ways_to_scale(everywhere)[0] or {"rope_type": "default"}), "rope_theta": everywhere.theta}
    ropes = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": nearby.theta}}
    return {**_exaone4(spec, fields), "rope_parameters": ropes, **_attention_bias(spec, fields)}


def _seed_oss(spec: ModelSpec, fields: Fields) -> Values:
    return {**_biases(spec, fields), "attention_out_bias": (0, "attention.output.bias") in fields}


def _starcoder2(spec: ModelSpec, fields: Fields) -> Values:
    norm = spec.layers[0].attention_norm
    assert norm is not None
    return {"norm_epsilon": norm.epsilon, "use_bias": (0, "attention.query.bias") in fields, **_window(spec, fields)}


_Make = Callable[[ModelSpec, Fields], Values]
FAMILIES: dict[str, tuple[str, _Make]] = {
    "arcee": ("ArceeForCausalLM", _biases),
    "bloom": ("BloomForCausalLM", _bloom),
    "cohere": ("CohereForCausalLM", _cohere),
    "cohere2": ("Cohere2ForCausalLM", _cohere2),
    "ernie4_5": ("Ernie4_5ForCausalLM", _ernie4_5),
    "exaone4": ("Exaone4ForCausalLM", _exaone4),
    "falcon": ("FalconForCausalLM", _falcon),
    "gemma": ("GemmaForCausalLM", _attention_bias),
    "gemma2": ("Gemma2ForCausalLM", _gemma2),
    "gemma3_text": ("Gemma3ForCausalLM", _gemma3),
    "glm": ("GlmForCausalLM", _glm),
    "glm4": ("Glm4ForCausalLM", _glm),
    "gpt2": ("GPT2LMHeadModel", _gpt2),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _gpt_bigcode),
    "gpt_neox": ("GPTNeoXForCausalLM", _gpt_neox),
    "gpt_oss": ("GptOssForCausalLM", _gpt_oss),
    "granite": ("GraniteForCausalLM", _granite),
    "hunyuan_v1_dense": ("HunYuanDenseV1ForCausalLM", _attention_bias),
    "llama": ("LlamaForCausalLM", _biases),
    "ministral3": ("Ministral3ForCausalLM", _ministral3),
    "mistral": ("MistralForCausalLM", _window),
    "mixtral": ("MixtralForCausalLM", _mixtral),
    "mpt": ("MptForCausalLM", _mpt),
    "nemotron": ("NemotronForCausalLM", _nemotron),
    "olmo2": ("Olmo2ForCausalLM", _attention_bias),
    "olmo3": ("Olmo3ForCausalLM", _olmo3),
    "phi": ("PhiForCausalLM", _phi),
    "phi3": ("Phi3ForCausalLM", _phi3),
    "qwen2": ("Qwen2ForCausalLM", _nothing),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _experts),
    "qwen3": ("Qwen3ForCausalLM", _attention_bias),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _qwen3_moe),
    "seed_oss": ("SeedOssForCausalLM", _seed_oss),
    "smollm3": ("SmolLM3ForCausalLM", _smollm3),
    "stablelm": ("StableLmForCausalLM", _stablelm),
    "starcoder2": ("Starcoder2ForCausalLM", _starcoder2),
}
"""transformers' class of a model_type, and what its models say."""
