"""Rotary settings of a configuration: `rope_parameters`, the older `rope_scaling`, and what GGUF says, as a `Rope`.

Names, precedence and defaults are those of transformers (modeling_rope_utils).
"""

from __future__ import annotations

import math
from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling
from linnet.errors import UnsupportedModelError

MAX_CONTEXT = 2**31 - 1
"""Positions are int32."""

STILL = 1e30
"""What GGUF divides the frequency of a pair by that is not to turn."""


def read_rope(config: Config, head_dim: int, interleaved: bool = False) -> Rope:
    """The rotary positions of a model whose heads are `head_dim` wide."""
    parameters = config.group("rope_parameters")
    return rope_of(config, head_dim, parameters, config.group("rope_scaling") or parameters, interleaved)


def read_two_ropes(config: Config, head_dim: int, nearby: float | None = None, near_dim: int | None = None) -> tuple[Rope, Rope]:
    """That of the layers that see everything, which alone scales, and that of those with a window. nearby: the latter's base where
    no key says it; None: the former's. near_dim: how wide their heads are; None: as wide."""
    near_dim = near_dim or head_dim
    parameters = config.group("rope_parameters")
    full, sliding = (parameters.group("full_attention"), parameters.group("sliding_attention")) if parameters else (None, None)
    everywhere = rope_of(config, head_dim, full, config.group("rope_scaling") or full)
    theta = config.number("rope_local_base_freq", nearby or everywhere.theta, low=1.0)
    if sliding is None:
        dim = config.integer("sliding_rope_dim", min(everywhere.dim, near_dim), high=near_dim)
        return everywhere, replace(everywhere, dim=dim, theta=theta, scaling=None)
    sliding.assume(rope_theta=theta)
    return everywhere, rope_of(config, near_dim, sliding, sliding)


def rope_of(config: Config, head_dim: int, parameters: Config | None, scaling: Config | None, interleaved: bool = False) -> Rope:
    """The same where a model has several, each in groups of its own."""
    context = config.integer("max_position_embeddings")
    theta = config.number("rope_theta", 10_000.0, low=1.0)
    share = config.number("partial_rotary_factor", 1.0, high=1.0)
    for group in (parameters, scaling):
        if group is not None:
            theta = group.number("rope_theta", theta, low=1.0)
            share = group.number("partial_rotary_factor", share, high=1.0)
    if scaling is not None and scaling.text("rope_type", "default") == "proportional":
        return Rope(head_dim, theta, context, interleaved, _proportional(scaling, head_dim, share))
    dim = config.integer("rope_dim", int(head_dim * share), high=head_dim)
    if dim < 2 or dim % 2:
        raise config.error("rope_dim" if config.format == "gguf" else "head_dim", f"an even number of rotated entries, not {dim},")
    return Rope(dim, theta, context, interleaved, _scaling(config, scaling, context, dim))


def longest(rope: Rope) -> int:
    """The longest sequence that a scaling stretches the trained context to (what max_position_embeddings says includes
    the stretch for llama3, and may for yarn)."""
    scaling, stretched = rope.scaling, 0.0
    if isinstance(scaling, (LinearScaling, DynamicScaling)):
        stretched = rope.context * scaling.factor
    if isinstance(scaling, YarnScaling):
        stretched = scaling.original_context * scaling.factor
    return min(max(rope.context, int(stretched)), MAX_CONTEXT)


def _scaling(config: Config, group: Config | None, context: int, dim: int) -> RopeScaling | None:
    kind = "default" if group is None else group.text("rope_type", group.text("type", "default"))
    if config.items("rope_factors") is not None:
        if kind != "default":
            raise UnsupportedModelError(f"{config.where}: both {config.name('rope_factors')} and the rotary scaling {kind!r}")
        return FactorScaling(_factors(config, "rope_factors", dim))
    if group is None or kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(group.number("factor"))
    if kind == "dynamic":
        return DynamicScaling(group.number("factor", low=0.999))
    if kind not in ("yarn", "llama3", "longrope", "su"):
        known = "default, linear, dynamic, yarn, llama3, longrope"
        raise UnsupportedModelError(f"{config.where}: {group.name('rope_type')} is {kind!r}; known: {known}")
    original = group.integer("original_max_position_embeddings", context)
    original = config.integer("original_max_position_embeddings", original)
    if kind == "yarn":
        return _yarn(group, original, context)
    if kind in ("longrope", "su"):  # "su": as the first Phi-3 called it
        return _long(group, original, context, dim)
    low, high = group.number("low_freq_factor"), group.number("high_freq_factor")
    if high <= low:
        raise group.error("high_freq_factor", f"a number above low_freq_factor ({low:g})")
    return Llama3Scaling(group.number("factor"), low, high, original)


def _proportional(group: Config, head_dim: int, share: float) -> FactorScaling:
    """Gemma 4: of pairs across the halves of the whole head, so many that they are a share of it turn, the first."""
    turning = int(share * head_dim // 2)
    return FactorScaling((group.number("factor", 1.0),) * turning + (math.inf,) * (head_dim // 2 - turning))


def _factors(config: Config, key: str, dim: int) -> tuple[float, ...]:
    """A divisor for the frequency of each pair, which does not turn where that is STILL or more."""
    factors = config.items(key) or []
    if len(factors) != dim // 2 or not all(type(f) in (int, float) and 0 < f <= 2 * STILL for f in factors):
        raise config.error(key, f"{dim // 2} positive factors")
    return tuple(float(f) if f < STILL else math.inf for f in factors)


def _long(group: Config, original: int, context: int, dim: int) -> LongScaling:
    factor, attention = group.number("factor", context / original), group.number("attention_factor", 0.0)
    if not attention:
        if original == 1:
            raise group.error("original_max_position_embeddings", "an integer above 1")
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongScaling(_factors(group, "short_factor", dim), _factors(group, "long_factor", dim), original, attention)


def _yarn(group: Config, original: int, context: int) -> YarnScaling:
    factor = group.number("factor", context / original)
    attention = group.number("attention_factor", 0.0)
    scale, scale_all = group.number("mscale", 0.0), group.number("mscale_all_dim", 0.0)
    if not attention and scale and scale_all:
        attention = _attention_factor(factor, scale) / _attention_factor(factor, scale_all)
    return YarnScaling(
        factor,
        original,
        (attention or _attention_factor(factor)) * group.number("extra_attention_factor", 1.0),
        group.number("beta_fast", 32.0),
        group.number("beta_slow", 1.0),
        group.flag("truncate", True),
    )


def _attention_factor(factor: float, scale: float = 1.0) -> float:
    """Equation 22 of the YaRN paper: how much attention sharpens as the context grows by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def score_factor(config: Config, rope: Rope) -> float:
    """What DeepSeek's models multiply the scale of attention's scores by: the square of YaRN's factor for `mscale_all_dim`."""
    group = config.group("rope_scaling") or config.group("rope_parameters")
    if group is None or not isinstance(rope.scaling, YarnScaling):
        return 1.0
    return _attention_factor(rope.scaling.factor, group.number("mscale_all_dim", 0.0)) ** 2
