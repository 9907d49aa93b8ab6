"""Attention and its rotary positions, and the mixers that may stand in its place, in words."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling
from linnet.arch.spec import Attention, GatedDeltaNet, Latent, Mixer
from linnet.look.phrases import norm_words, number


def mixer_facts(mixer: Mixer, context: int) -> dict[str, list[str]]:
    """By topic. context: what the model was made for."""
    if isinstance(mixer, Attention):
        return {"attention": attention_facts(mixer), "rotary": rotary_facts(mixer, context)}
    state = f"a state of {mixer.state_size} numbers, whatever the length"
    if isinstance(mixer, GatedDeltaNet):
        keys, values = f"{mixer.key_heads} query and key heads of {mixer.key_dim}", f"{mixer.value_heads} value heads of {mixer.value_dim}"
        return {"gated delta rule": [keys, values, f"each column convolved over {mixer.taps} positions", norm_words(mixer.norm), state]}
    return {"short convolution": [f"{mixer.width} columns over {mixer.taps} positions, between two gates", state]}


def attention_facts(attention: Attention) -> list[str]:
    facts = [_heads(attention)]
    if attention.latent is not None:
        facts += _latent_facts(attention.latent)
    facts += _norm_facts(attention)
    root = attention.head_dim**-0.5
    facts.append(f"scores times {f'1/√{attention.head_dim}' if attention.scale == root else number(attention.scale)}")
    if attention.softcap is not None:
        facts.append(f"scores softly capped at {number(attention.softcap)}")
    if attention.alibi is not None:
        facts.append(f"ALiBi slopes {_range(attention.alibi)}")
    if attention.keys_as_values:
        facts.append("values are the keys as projected")
    if attention.value_norm is not None:
        facts.append(f"{norm_words(attention.value_norm)} of values over each head")
    if attention.temperature is not None:
        beta, length = number(attention.temperature.beta), attention.temperature.length
        facts.append(f"queries times 1 + {beta} log(1 + floor(position / {length}))")
    if attention.kv_layer is not None:
        facts.append(f"reads the keys and values of layer {attention.kv_layer}")
    if attention.sinks:
        facts.append("a learned sink for every head")
    if attention.value_gate is not None:
        facts.append(
            f"values plus value embeddings, gated by the first {attention.value_gate} columns, times {number(attention.value_gate_scale)}"
        )
    if attention.gated:
        facts.append("what the heads give is gated by the layer's input")
    facts.append("sees all that came before" if attention.window is None else f"sees the last {attention.window} tokens")
    return facts


def rotary_facts(attention: Attention, context: int) -> list[str]:
    """context: what the model was made for; a rotary's own is said where it is another."""
    return [_rope(rope, attention.head_dim, context) for rope in attention.ropes] or ["none"]


def _heads(attention: Attention) -> str:
    values = "" if attention.value_head_dim == attention.head_dim else f", values of {attention.value_head_dim}"
    if attention.heads == attention.kv_heads:
        return f"{attention.heads} heads of {attention.head_dim}{values}"
    plural = "head" if attention.kv_heads == 1 else "heads"
    return f"{attention.heads} query heads and {attention.kv_heads} KV {plural} of {attention.head_dim}{values}"


def _latent_facts(latent: Latent) -> list[str]:
    norm = norm_words(latent.norm)
    facts = [f"keys and values from a latent of {latent.rank}, {norm}; a part of {latent.rope_dim} of every key is shared by all heads"]
    if latent.query_rank is not None:
        facts.append(f"queries from a latent of {latent.query_rank}")
    return facts


def _norm_facts(attention: Attention) -> list[str]:
    over = "each head" if attention.norm_heads else "the whole row"
    when = "after rotation" if attention.norm_rotated else "before rotation"
    if attention.query_norm is not None and attention.query_norm == attention.key_norm:
        return [f"{norm_words(attention.query_norm)} of queries and keys over {over}, {when}"]
    named = (("queries", attention.query_norm), ("keys", attention.key_norm))
    return [f"{norm_words(norm)} of {whose} over {over}, {when}" for whose, norm in named if norm is not None]


def _rope(rope: Rope, head_dim: int, context: int) -> str:
    parts = [f"base {number(rope.theta)}"]
    if rope.start:
        parts.append(f"entries {rope.start} to {rope.start + rope.dim - 1} of {head_dim}")
    else:
        parts.append(f"all {head_dim} entries" if rope.dim == head_dim else f"the first {rope.dim} of {head_dim} entries")
    parts.append("in pairs of neighbours" if rope.interleaved else "in pairs across halves")
    if rope.context != context and not isinstance(rope.scaling, DynamicScaling):
        parts.append(f"trained context {rope.context}")
    if rope.positions == "prompt":
        parts.append("by the position in the prompt, which stands still from its last token but one on")
    elif rope.positions == "block":
        parts.append("by the position after the prompt")
    if rope.scaling is not None:
        parts.append(_scaling(rope.scaling, rope.context))
    return ", ".join(parts)


def _scaling(scaling: RopeScaling, context: int) -> str:
    if isinstance(scaling, LinearScaling):
        return f"positions divided by {number(scaling.factor)}"
    if isinstance(scaling, DynamicScaling):
        return f"a base that grows with requests longer than {context} tokens (dynamic NTK, factor {number(scaling.factor)})"
    if isinstance(scaling, YarnScaling):
        bounds = f"betas {number(scaling.beta_fast)} and {number(scaling.beta_slow)}{'' if scaling.truncate else ', not truncated'}"
        return (
            f"YaRN by {number(scaling.factor)} from {scaling.original_context} tokens ({bounds}), "
            f"cosines and sines times {number(scaling.attention_factor)}"
        )
    if isinstance(scaling, Llama3Scaling):
        low, high = number(scaling.low_frequency_factor), number(scaling.high_frequency_factor)
        return f"Llama 3.1 scaling by {number(scaling.factor)} from {scaling.original_context} tokens (frequency factors {low} and {high})"
    if isinstance(scaling, FactorScaling):
        turning = [factor for factor in scaling.factors if factor < inf]
        still = len(scaling.factors) - len(turning)
        of_all = f", the last {still} of {len(scaling.factors)} pairs not turned" if still else ""
        return f"frequencies divided by factors {_range(turning or scaling.factors)}{of_all}"
    assert isinstance(scaling, LongScaling)
    return (
        f"LongRoPE: frequencies divided by factors {_range(scaling.short_factors)} within {scaling.original_context} tokens and "
        f"{_range(scaling.long_factors)} past them, cosines and sines times {number(scaling.attention_factor)}"
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"from {low} to {high}"
