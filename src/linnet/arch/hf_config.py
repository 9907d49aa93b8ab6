"""A spec in config.json's keys, for families that transformers has: the inverse of what each family reads there.

Nothing here is trusted: whoever writes a folder reads its config back and compares the specs (`linnet.quantize.same_model`).
"""

from __future__ import annotations

from typing import NamedTuple

from linnet.arch.hf_families import ACTIVATIONS, FAMILIES, Fields, Values
from linnet.arch.hf_rope import ways_to_scale
from linnet.arch.spec import ModelSpec


class Way(NamedTuple):
    """One way to say a model. architecture: transformers' class."""

    architecture: str
    values: Values


def hf_configs(spec: ModelSpec, fields: Fields) -> list[Way]:
    """Every way that may say the model, likeliest first; none for a family that transformers does not have. fields: those the
    checkpoint has, by layer and path, biases above all."""
    ways = []
    for model_type in _ALIKE.get(spec.family, (spec.family,)):
        if model_type in FAMILIES:
            architecture, make = FAMILIES[model_type]
            absent = _RENAMED.get(model_type, "").split()
            for scaling in ways_to_scale(spec.main_rope):
                usual = {key: value for key, value in _usual(spec, scaling).items() if key not in absent}
                ways.append(Way(architecture, {"model_type": model_type, **usual, **make(spec, fields)}))
    return ways


_ALIKE = {
    "baichuan": ("llama",),
    "chatglm": ("glm",),
    "gemma3": ("gemma3_text",),
    "exaone": ("llama",),
    "glm4": ("glm4", "glm"),
    "internlm2": ("llama",),
    "llama": ("llama", "mistral"),
    "mistral": ("mistral", "llama"),
    "nanogpt": ("gpt2",),
    "qwen": ("qwen2",),
}
"""Families whose models go under another name, or several."""


def _usual(spec: ModelSpec, scaling: Values | None) -> Values:
    """What most families say under the same names."""
    layer = spec.layers[0]
    attention, rope = layer.attention, spec.main_rope
    values: Values = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "intermediate_size": spec.dense_block.width,
        "hidden_act": ACTIVATIONS.get(spec.dense_block.activation),
        "max_position_embeddings": spec.context if rope is None else rope.context,
        "tie_word_embeddings": spec.tied,
        **_norm(spec),
    }
    if rope is not None:
        values["rope_theta"] = rope.theta
        if rope.dim != attention.head_dim:
            values["partial_rotary_factor"] = rope.dim / attention.head_dim
    if scaling is not None:
        values["rope_scaling"] = scaling
    return values


def _norm(spec: ModelSpec) -> Values:
    layer = spec.layers[0]
    norm = layer.attention_norm or layer.attention_post_norm or layer.attention_sum_norm
    return {} if norm is None else {{"rms": "rms_norm_eps", "layer": "layer_norm_eps"}[norm.kind]: norm.epsilon}


CONVERTED = tuple(FAMILIES)
"""What transformers calls the families that can be written so."""
_GPT2_ABSENT = (
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size hidden_act layer_norm_eps "
    "max_position_embeddings"
)
_RENAMED = {
    "bloom": (
        "num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size hidden_act layer_norm_eps "
        "max_position_embeddings"
    ),
    "falcon": "num_key_value_heads head_dim intermediate_size hidden_act layer_norm_eps",
    "gpt_oss": "hidden_act",
    "gpt2": _GPT2_ABSENT,
    "gpt_bigcode": _GPT2_ABSENT,
    "mpt": _GPT2_ABSENT,
    "ministral3": "rope_theta rope_scaling",
    "nemotron": "layer_norm_eps",
    "olmo3": "head_dim rope_theta rope_scaling",
    "starcoder2": "head_dim layer_norm_eps",
    "cohere2": "head_dim",
    "gpt_neox": "num_key_value_heads head_dim partial_rotary_factor rope_theta",
    "phi": "head_dim",
    "stablelm": "head_dim",
    "phi3": "head_dim",
    "qwen2": "head_dim",
    "qwen2_moe": "head_dim",
    "olmo2": "head_dim",
    "cohere": "head_dim",
    "gemma2": "hidden_act",
    "gemma3_text": "hidden_act",
}
"""Usual keys that a family does not have, or calls otherwise."""
