"""GGUF metadata as a `Config`: the keys of every architecture's hyperparameters, in config.json's words.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; defaults are those of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from linnet.arch.config import Config
from linnet.errors import ModelFileError, UnsupportedModelError

_KEYS = {
    "vocab_size": "vocab_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.key_length_mla": "qk_head_dim",
    "attention.key_length_swa": "sliding_head_dim",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.temperature_scale": "llama_4_scaling_beta",
    "attention.value_length": "value_head_dim",
    "attention.value_length_mla": "v_head_dim",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.max_alibi_bias": "alibi_bias_max",
    "attention.value_length_swa": "sliding_value_head_dim",
    "attention.scale": "attention_multiplier",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    "embedding_scale": "embedding_multiplier",
    "expert_count": "num_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_gating_func": "expert_gating_func",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_shared_count": "n_shared_experts",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_used_count": "num_experts_per_tok",
    "expert_weights_norm": "norm_topk_prob",
    "expert_weights_scale": "routed_scaling_factor",
    "final_logit_softcapping": "final_logit_softcapping",
    "interleave_moe_layer_step": "moe_layer_interval",
    "leading_dense_block_count": "first_k_dense_replace",
    "logit_scale": "logit_scale",
    "nextn_predict_layers": "num_nextn_predict_layers",
    "residual_scale": "residual_multiplier",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "rope.dimension_count": "rope_dim",
    "rope.dimension_count_swa": "sliding_rope_dim",
    "rope.scaling.finetuned": "rope_finetuned",
    "use_parallel_residual": "use_parallel_residual",
}
_SCALING_KEYS = {
    "rope.scale_linear": "factor",  # what old files call it
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "extra_attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_log_multiplier": "mscale_all_dim",
}
_LONG_FACTORS = {"rope_factors_short.weight": "short_factor", "rope_factors_long.weight": "long_factor"}
FACTOR_TENSORS = ("rope_freqs.weight", *_LONG_FACTORS)
"""Tensors that belong to the configuration."""

_ELSEWHERE = frozenset({"pooling_type"})
"""Keys that do not bear on the decoder: `load/pooling.py` reads it for embeddings."""

# Keys of which only this value runs.
_FIXED_KEYS = {"attention.causal": True, "rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0}


def gguf_config(
    metadata: Mapping[str, Any],
    where: str,
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: Mapping[str, Sequence[float]] | None = None,
) -> Config:
    """The configuration that GGUF `metadata` gives.

    `shapes` are the file's tensors: the embedding's rows count the vocabulary, and without `output.weight` the output is tied.
    `rope_factors` are the values of those of FACTOR_TENSORS that there are. Raises ModelFileError without an architecture.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelFileError(f"{where}: general.architecture is missing or not a text")
    values: dict[str, Any] = {"model_type": architecture}
    names = {"model_type": "general.architecture", "rope_factors": "rope_freqs.weight"}
    names |= {f"rope_scaling.{key}": tensor for tensor, key in _LONG_FACTORS.items()}
    scaling: dict[str, Any] = {}
    for key, value in metadata.items():
        suffix = key.removeprefix(f"{architecture}.")
        if suffix == key or suffix in _ELSEWHERE:
            continue  # other prefixes (general, tokenizer, quantize ...) do not bear on the computation
        if suffix in _FIXED_KEYS:
            if isinstance(value, np.ndarray) or value != _FIXED_KEYS[suffix]:
                raise UnsupportedModelError(f"{where}: {key} is {str(value)[:60]!r}; only {_FIXED_KEYS[suffix]} runs")
        elif suffix in _SCALING_KEYS:
            scaling[_SCALING_KEYS[suffix]] = value
            names["rope_scaling." + _SCALING_KEYS[suffix]] = key
        else:
            name = _KEYS.get(suffix, key)
            values[name] = value
            names[name] = key
    if not shapes:
        raise UnsupportedModelError(f"{where}: a vocabulary without tensors; it has a tokenizer, but no model to run")
    rope_factors = rope_factors or {}
    values["rope_scaling"] = _scaling(scaling, rope_factors)
    values["rope_factors"] = rope_factors.get("rope_freqs.weight")
    if type(values.get("sliding_window")) is int and values["sliding_window"] == 0:  # none
        del values["sliding_window"]
    pattern = values.get("sliding_window_pattern")
    if isinstance(pattern, np.ndarray):  # a truth value for each layer; else a number
        del values["sliding_window_pattern"]
        values["layer_types"] = ["sliding_attention" if sliding else "full_attention" for sliding in pattern.tolist()]
        names["layer_types"] = names["sliding_window_pattern"]
    values |= _numbers_of_layers(values)
    values["tie_word_embeddings"] = "output.weight" not in shapes
    if "token_embd.weight" in shapes:
        values["vocab_size"] = shapes["token_embd.weight"][0]
    for name in _KEYS:
        names.setdefault(_KEYS[name], f"{architecture}.{name}")
    return Config(values, where, "gguf", names, shapes)


def _numbers_of_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that files give for each layer, as config.json has them: those of the first layer, and, where others differ, all of them."""
    said: dict[str, Any] = {}
    of_layers: dict[str, dict[str, Any]] = {}
    for key in ("num_key_value_heads", "intermediate_size"):
        numbers = values.get(key)
        if isinstance(numbers, np.ndarray) and numbers.size:
            said[key] = numbers.tolist()[0]
            for index, number in enumerate(numbers.tolist()):
                of_layers.setdefault(str(index), {})[key] = number
    alike = all(own[key] == said[key] for own in of_layers.values() for key in own)
    return said if alike else {**said, "per_layer_config": of_layers}


def _scaling(scaling: dict[str, Any], rope_factors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """`rope_scaling` as config.json would have it: a factor without a type means linear; 0 and 1 mean none. Factors for short and
    for long requests mean longrope, whose type files do not always say."""
    factors = {key: rope_factors[name] for name, key in _LONG_FACTORS.items() if name in rope_factors}
    if factors:
        attention_factor = scaling.pop("extra_attention_factor", 1.0)
        return {"rope_type": "longrope", "attention_factor": attention_factor, **scaling, **factors}
    kind, factor = scaling.get("rope_type", "linear"), scaling.get("factor", 1.0)
    if isinstance(kind, str) and (kind == "none" or (kind == "linear" and type(factor) in (int, float) and factor in (0, 1))):
        return {}
    share = scaling.get("mscale_all_dim")
    if type(share) in (int, float):  # a tenth of what config.json says; in files of models whose mscale is the same
        del scaling["mscale_all_dim"]
        if share:
            scaling["mscale"] = scaling["mscale_all_dim"] = 10 * share
    return {**scaling, "rope_type": kind}
