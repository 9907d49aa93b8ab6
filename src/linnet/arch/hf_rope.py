"""A rotary scaling in the words of config.json's `rope_scaling`: the inverse of `rope_config.py`."""

from __future__ import annotations

from typing import Any

from linnet.arch.rope_spec import FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling

Values = dict[str, Any]


def ways_to_scale(rope: Rope | None) -> list[Values | None]:
    """What may say a rotary scaling; None: nothing does. GGUF has Llama 3's as the factors that it comes to: the published settings are
    tried first."""
    scaling = None if rope is None else rope.scaling
    if rope is None or scaling is None:
        return [None]
    if isinstance(scaling, LinearScaling):
        return [{"rope_type": "linear", "factor": scaling.factor}]
    if isinstance(scaling, YarnScaling):
        return [
            {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context,
                "attention_factor": scaling.attention_factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
        ]
    if isinstance(scaling, Llama3Scaling):
        return [_llama3(scaling)]
    if isinstance(scaling, FactorScaling):
        published = Llama3Scaling(max(scaling.factors), 1.0, 4.0, 8192)
        return [_llama3(published), _long(scaling.factors, scaling.factors, rope.context, 1.0)]
    if isinstance(scaling, LongScaling):
        return [_long(scaling.short_factors, scaling.long_factors, scaling.original_context, scaling.attention_factor)]
    return [{"rope_type": "dynamic", "factor": scaling.factor}]


def _llama3(scaling: Llama3Scaling) -> Values:
    return {
        "rope_type": "llama3",
        "factor": round(scaling.factor, 4),
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _long(short: tuple[float, ...], long: tuple[float, ...], original: int, attention_factor: float) -> Values:
    return {
        "rope_type": "longrope",
        "short_factor": list(short),
        "long_factor": list(long),
        "original_max_position_embeddings": original,
        "attention_factor": attention_factor,
    }
