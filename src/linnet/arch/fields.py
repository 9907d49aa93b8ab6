"""Which fields of `linnet.weights` a spec reads: those that must be there, and those that may (norm weights, biases)."""

from __future__ import annotations

from collections.abc import Iterable

from linnet.arch.spec import Attention, GatedDeltaNet, Layer, Mixer, Mlp, ModelSpec, Moe, Norm

Fields = dict[str, bool]
"""Paths through `Weights` or `LayerWeights` -> whether the forward cannot do without."""


def outer_fields(spec: ModelSpec) -> Fields:
    """Those outside the layers, but for what is made without a tensor: a tied output's matrix, sinusoidal positions."""
    embedding = spec.embedding
    found = {"embedding": True, "output.bias": False, **_norm("final_norm", spec.final_norm), **_norm("embedding_norm", embedding.norm)}
    if not spec.tied:
        found["output.matrix"] = True
    if embedding.positions is not None and embedding.positions.kind == "learned":
        found["positions"] = True
    if embedding.width is not None:
        found |= _linear("embedding_projection") | _linear("output_projection")
    if embedding.smear is not None:
        found |= {**_linear("smear_gate"), "smear_scale": True}
    if spec.backout is not None:
        found["backout_scale"] = True
    per_layer = spec.layers[0].per_layer if spec.layers else None
    if per_layer is not None:
        found |= {"per_layer_embedding": True, **_linear("per_layer_projection"), **_norm("per_layer_norm", per_layer.norm)}
    return found


def layer_fields(layer: Layer) -> Fields:
    """Those of one layer."""
    found = _mixer(layer.mixer)
    for name in ("attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm", "attention_sum_norm", "mlp_sum_norm"):
        found |= _norm(name, getattr(layer, name))
    if layer.remixed:
        found |= {"input_scale": True, "first_scale": True}
    if layer.rescaled:
        found["output_scale"] = True
    if layer.per_layer is not None:
        found |= _linear("per_layer_gate") | _linear("per_layer_projection") | _norm("per_layer_norm", layer.per_layer.norm)
    if isinstance(layer.mlp, Mlp):
        return found | _mlp("mlp", layer.mlp)
    return found | _moe(layer.mlp)


def _mixer(mixer: Mixer) -> Fields:
    if isinstance(mixer, Attention):
        return _attention(mixer)
    if isinstance(mixer, GatedDeltaNet):
        linears, filters = ("query", "key", "value", "rate", "strength", "gate", "output"), ("query_filter", "key_filter", "value_filter")
        return {**_layered("delta_net", linears, filters), **_norm("delta_net.norm", mixer.norm), "delta_net.decay": True}
    return _layered("convolution", ("value", "input_gate", "output_gate", "output"), ("filter",))


def _layered(place: str, linears: Iterable[str], filters: Iterable[str]) -> Fields:
    found: Fields = {}
    for name in linears:
        found |= _linear(f"{place}.{name}")
    for name in filters:
        found |= {f"{place}.{name}.weight": True, f"{place}.{name}.bias": False}
    return found


def _attention(attention: Attention) -> Fields:
    found: Fields = _linear("attention.query") | _linear("attention.output") | _norm("attention.query_norm", attention.query_norm)
    if attention.kv_layer is None:
        found |= _linear("attention.key") | _norm("attention.key_norm", attention.key_norm)
        if not attention.keys_as_values:
            found |= _linear("attention.value")
    if attention.sinks:
        found["attention.sinks"] = True
    if attention.gated:
        found |= _linear("attention.gate")
    if attention.value_gate is not None:
        found |= {**_linear("attention.value_gate"), "attention.value_embedding": True}
    latent = attention.latent
    if latent is not None:
        found |= _linear("attention.key_value_down") | _linear("attention.shared_key") | _norm("attention.key_value_norm", latent.norm)
        if latent.query_rank is not None:
            found |= _linear("attention.query_down") | _norm("attention.query_down_norm", latent.norm)
    return found


def _moe(moe: Moe) -> Fields:
    found = _mlp("experts", moe.expert) | _linear("router")
    if moe.router.corrected:
        found["router_correction"] = True
    if moe.router.rescaled:
        found["expert_scale"] = True
    for name in ("router_norm", "experts_norm", "experts_post_norm", "shared_post_norm"):
        found |= _norm(name, moe.branch_norm)
    if moe.shared is not None:
        found |= _mlp("mlp", moe.shared)
        if moe.shared_gated:
            found |= _linear("shared_gate")
    return found


def _mlp(name: str, mlp: Mlp) -> Fields:
    gate = _linear(f"{name}.gate") if mlp.gated else {}
    return _linear(f"{name}.up") | _linear(f"{name}.down") | gate


def _linear(name: str) -> Fields:
    return {f"{name}.matrix": True, f"{name}.bias": False}


def _norm(name: str, norm: Norm | None) -> Fields:
    return {} if norm is None else {f"{name}.weight": False, f"{name}.bias": False}
