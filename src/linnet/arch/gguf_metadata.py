"""A spec in GGUF's keys: the inverse of `gguf_config.py` and of what each family reads there.

Nothing here is trusted: whoever writes a file reads its metadata back and compares the specs (`linnet.quantize.same_model`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import isclose, log, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.arch.rope import inverse_frequencies
from linnet.arch.rope_config import STILL, longest
from linnet.arch.rope_spec import FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling
from linnet.arch.spec import Layer, ModelSpec, Moe

Metadata = dict[str, Any]
_GATING = {"softmax": 1, "sigmoid": 2, "softmax_chosen": 3}


def metadata_of(spec: ModelSpec, architecture: str) -> Metadata:
    """Keys without the architecture's prefix. What GGUF has no key for is left out: whoever reads the file may get another spec."""
    layer = spec.layers[0]
    values = {**_sizes(spec), **_norms(layer), **_rotation(spec), **_windows(spec), **_experts(spec), **_caps(spec)}
    for particular in _PARTICULAR.get(architecture, ()):
        values |= particular(spec)
    return values


def compressed_pages(spec: ModelSpec) -> Metadata:
    """What newer files of latent attention say instead: the sizes of what is cached, one head for all, and the real ones."""
    attention = spec.layers[0].attention
    latent = attention.latent
    assert latent is not None
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": latent.rank + latent.rope_dim,
        "attention.value_length": latent.rank,
        "attention.key_length_mla": attention.head_dim,
        "attention.value_length_mla": attention.value_head_dim,
    }


def factor_tensors(spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Scalings that GGUF has as tensors, float32 [dim / 2]: divisors of each frequency."""
    rope = spec.main_rope
    scaling = rope and rope.scaling
    if isinstance(scaling, FactorScaling):
        return {"rope_freqs.weight": np.minimum(scaling.factors, STILL).astype(np.float32)}
    if isinstance(scaling, Llama3Scaling):
        assert rope is not None
        plain, _ = inverse_frequencies(Rope(rope.dim, rope.theta, rope.context), 0)
        return {"rope_freqs.weight": plain / inverse_frequencies(rope, 0)[0]}
    if isinstance(scaling, LongScaling):
        factors = {"short": scaling.short_factors, "long": scaling.long_factors}
        return {f"rope_factors_{length}.weight": np.array(values, np.float32) for length, values in factors.items()}
    return {}


def _sizes(spec: ModelSpec) -> Metadata:
    attention, rope = spec.layers[0].attention, spec.main_rope
    return {
        "vocab_size": spec.vocab_size,
        "context_length": rope.context if rope and longest(rope) == spec.context else spec.context,
        "embedding_length": spec.hidden,
        "block_count": len(spec.layers),
        "feed_forward_length": spec.dense_block.width,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.value_head_dim,
    }


def _norms(layer: Layer) -> Metadata:
    norm = layer.attention_norm or layer.attention_post_norm
    assert norm is not None
    return {{"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}[norm.kind]: norm.epsilon}


def _rotation(spec: ModelSpec) -> Metadata:
    rope = spec.main_rope
    return {} if rope is None else {"rope.dimension_count": rope.dim, "rope.freq_base": rope.theta, **_scaling(rope)}


def _scaling(rope: Rope) -> Metadata:
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
    if isinstance(scaling, LongScaling):
        return {
            "rope.scaling.attn_factor": scaling.attention_factor,
            "rope.scaling.original_context_length": scaling.original_context,
        }
    if not isinstance(scaling, YarnScaling):
        return {}
    usual = YarnScaling(scaling.factor, scaling.original_context, 1.0)
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": scaling.factor,
        "rope.scaling.original_context_length": scaling.original_context,
        **({"rope.scaling.yarn_beta_fast": scaling.beta_fast} if scaling.beta_fast != usual.beta_fast else {}),
        **({"rope.scaling.yarn_beta_slow": scaling.beta_slow} if scaling.beta_slow != usual.beta_slow else {}),
        **({"rope.scaling.attn_factor": own} if not isclose(own := scaling.attention_factor / _yarn_sharpening(scaling), 1) else {}),
    }


def _yarn_sharpening(scaling: YarnScaling) -> float:
    """What YaRN multiplies cosines and sines by where nobody says otherwise."""
    return 0.1 * log(scaling.factor) + 1 if scaling.factor > 1 else 1.0


def _windows(spec: ModelSpec) -> Metadata:
    windows = [layer.attention.window for layer in spec.layers]
    window = next((window for window in windows if window is not None), None)
    return {} if window is None else {"attention.sliding_window": window}


def _window_period(spec: ModelSpec) -> Metadata:
    """How often a layer sees everything."""
    everywhere = [index for index, layer in enumerate(spec.layers) if layer.attention.window is None]
    return {"attention.sliding_window_pattern": everywhere[0] + 1} if everywhere else {}


def _sliding_layers(spec: ModelSpec) -> Metadata:
    """Whether each layer has a window."""
    sliding = [layer.attention.window is not None for layer in spec.layers]
    return {"attention.sliding_window_pattern": np.array(sliding)} if any(sliding) else {}


def _experts(spec: ModelSpec) -> Metadata:
    moe = _moe(spec)
    if moe is None:
        return {}
    values = {"expert_count": moe.experts, "expert_used_count": moe.router.active, "expert_gating_func": _GATING[moe.router.scoring]}
    if moe.router.groups > 1:
        values |= {"expert_group_count": moe.router.groups, "expert_group_used_count": moe.router.active_groups}
    return values


def _moe(spec: ModelSpec) -> Moe | None:
    return next((layer.mlp for layer in spec.layers if isinstance(layer.mlp, Moe)), None)


def _caps(spec: ModelSpec) -> Metadata:
    caps = {"attn_logit_softcapping": spec.layers[0].attention.softcap, "final_logit_softcapping": spec.output.softcap}
    return {key: cap for key, cap in caps.items() if cap is not None}


# ---- what only some architectures say, or say in their own way
def _granite(spec: ModelSpec) -> Metadata:
    layer = spec.layers[0]
    return {
        "attention.scale": layer.attention.scale,
        "embedding_scale": spec.embedding.scale,
        "residual_scale": layer.branch_scale,
        "logit_scale": 1 / spec.output.scale,
        "rope.scaling.finetuned": bool(layer.attention.ropes),
    }


def _mixture_width(spec: ModelSpec) -> Metadata:
    """Experts are as wide as a dense block would be."""
    moe = _moe(spec)
    return {"feed_forward_length": moe.expert.width} if moe else {}


def _logit_scale(spec: ModelSpec) -> Metadata:
    return {"logit_scale": spec.output.scale}


def _parallel(spec: ModelSpec) -> Metadata:
    return {"use_parallel_residual": spec.layers[0].parallel}


def _both_widths(spec: ModelSpec) -> Metadata:
    """Qwen counts gate and up together."""
    return {"feed_forward_length": 2 * spec.dense_block.width}


def _expert_width(spec: ModelSpec) -> Metadata:
    moe = _moe(spec)
    return {"expert_feed_forward_length": moe.expert.width} if moe else {}


def _shared_width(spec: ModelSpec) -> Metadata:
    moe = _moe(spec)
    return {"expert_shared_feed_forward_length": moe.shared.width} if moe and moe.shared else {}


def _deepseek(spec: ModelSpec) -> Metadata:
    moe = _moe(spec)
    dense_first = next((index for index, layer in enumerate(spec.layers) if isinstance(layer.mlp, Moe)), len(spec.layers))
    if moe is None:
        return {"leading_dense_block_count": dense_first}
    shared = moe.shared.width // moe.expert.width if moe.shared else 0
    router = {"expert_weights_scale": moe.router.scale, "expert_weights_norm": moe.router.normalise}
    return {"leading_dense_block_count": dense_first, "expert_shared_count": shared, **router}


def _sparse_layers(spec: ModelSpec) -> Metadata:
    """The first layer with experts, and how many lie between two such."""
    sparse = [index for index, layer in enumerate(spec.layers) if isinstance(layer.mlp, Moe)] or [len(spec.layers)]
    step = sparse[1] - sparse[0] if len(sparse) > 1 else 1
    return {"leading_dense_block_count": sparse[0], "interleave_moe_layer_step": step}


def _latent(spec: ModelSpec) -> Metadata:
    attention = spec.layers[0].attention
    latent, scaling = attention.latent, attention.ropes[0].scaling
    assert latent is not None
    values: Metadata = {"attention.kv_lora_rank": latent.rank}
    if latent.query_rank is not None:
        values["attention.q_lora_rank"] = latent.query_rank
    if isinstance(scaling, YarnScaling):
        # Scores are scaled by the square of 1 + this * log(factor); cosines and sines then are not.
        sharpening = (attention.scale * attention.head_dim**0.5) ** 0.5
        if not isclose(sharpening, 1):
            values |= {"rope.scaling.yarn_log_multiplier": (sharpening - 1) / log(scaling.factor), "rope.scaling.attn_factor": 1.0}
    return values


def _two_bases(spec: ModelSpec) -> Metadata:
    """Layers with a window have a base of their own."""
    nearby = [layer for layer in spec.layers if layer.attention.window is not None]
    return {"rope.freq_base_swa": nearby[0].attention.ropes[0].theta} if nearby else {}


def _ministral3(spec: ModelSpec) -> Metadata:
    """A multiplier of 1 says that cosines and sines are not scaled."""
    rope, temperature = spec.main_rope, spec.layers[0].attention.temperature
    values: Metadata = {} if temperature is None else {"attention.temperature_scale": temperature.beta}
    if rope is not None and isinstance(rope.scaling, YarnScaling) and rope.scaling.attention_factor == 1:
        values |= {"rope.scaling.yarn_log_multiplier": 1.0, "rope.scaling.attn_factor": 1.0}
    return values


def _alibi(spec: ModelSpec) -> Metadata:
    """The slope of the last head is 2 to the power of less this, if heads are a power of two; else that of the last of such a number."""
    slopes = spec.layers[0].attention.alibi
    assert slopes is not None
    return {"attention.max_alibi_bias": -log2(slopes[2 ** (len(slopes).bit_length() - 1) - 1])}


def _gemma4(spec: ModelSpec) -> Metadata:
    """Heads of two widths, and sizes of every layer."""
    everywhere, nearby = ([x.attention for x in spec.layers if (x.attention.window is not None) is sliding] for sliding in (False, True))
    far, near = (everywhere or nearby)[0], (nearby or everywhere)[0]
    blocks = [layer.mlp.shared if isinstance(layer.mlp, Moe) else layer.mlp for layer in spec.layers]
    per_layer = spec.layers[0].per_layer
    return {
        "attention.head_count_kv": np.array([layer.attention.kv_heads for layer in spec.layers], np.int32),
        "attention.key_length": far.head_dim,
        "attention.key_length_swa": near.head_dim,
        "attention.value_length": far.head_dim,
        "attention.value_length_swa": near.head_dim,
        "attention.shared_kv_layers": len(spec.layers) - len(spec.kv_layers),
        "embedding_length_per_layer_input": 0 if per_layer is None else per_layer.width,
        "feed_forward_length": np.array([block.width if block else 0 for block in blocks], np.int32),
        "rope.dimension_count": far.ropes[0].dim,
        "rope.dimension_count_swa": near.ropes[0].dim,
    }


_PARTICULAR: dict[str, tuple[Callable[[ModelSpec], Metadata], ...]] = {
    "cohere2": (_logit_scale, _sliding_layers),
    "command-r": (_logit_scale,),
    "deepseek": (_expert_width, _deepseek),
    "deepseek2": (_expert_width, _deepseek, _latent),
    "dots1": (_expert_width, _deepseek),
    "ernie4_5-moe": (_expert_width, _shared_width, _sparse_layers),
    "exaone4": (_sliding_layers,),
    "gemma3": (_two_bases, _window_period),
    "gemma4": (_two_bases, _sliding_layers, _expert_width, _gemma4),
    "glm4moe": (_expert_width, _deepseek),
    "gpt-oss": (_expert_width,),
    "gptneox": (_parallel,),
    "granite": (_granite,),
    "hunyuan-moe": (_expert_width, _shared_width),
    "minimax-m2": (_expert_width,),
    "granitemoe": (_granite, _mixture_width, _shared_width),
    "mistral3": (_ministral3,),
    "mpt": (_alibi,),
    "olmo2": (_two_bases, _sliding_layers),
    "qwen": (_both_widths,),
    "qwen2moe": (_expert_width, _shared_width),
    "qwen3moe": (_expert_width,),
}
