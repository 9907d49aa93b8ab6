"""The decoder loop: the only one, for every family on every op set.

X below is an op set's activations, [n, width]: n the rows of the batch. What each option of a spec means stands in `arch/spec.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from linnet.arch.spec import Layer, Mlp, ModelSpec, Moe, PerLayer
from linnet.mixers import mixed, norm, project
from linnet.ops.base import Ops
from linnet.weights import LayerWeights, MlpWeights, Weights

X = Any


def forward(ops: Ops, spec: ModelSpec, weights: Weights, wanted: Literal["logits", "hidden"] = "logits") -> X:
    """Logits, float32 [len(batch.rows), vocab], of the rows that the op set's current batch asks for; or the hidden states that they
    are made of, normalised, float32 [len(batch.rows), width of the output matrix].

    Also writes keys and values of every input row to the op set's KV pages.
    """
    x = first = embed(ops, spec, weights)
    per_layer = per_layer_inputs(ops, spec, weights, first)
    middle = None
    for index, (layer, w) in enumerate(zip(spec.layers, weights.layers, strict=True)):
        if layer.remixed:
            x = ops.add(ops.scale(x, w.input_scale), ops.scale(first, w.first_scale))
        x = parallel_layer(ops, layer, w, x, index) if layer.parallel else sequential_layer(ops, layer, w, x, index)
        if layer.per_layer is not None:
            x = add_per_layer(ops, layer.per_layer, w, x, ops.columns(per_layer, index * layer.per_layer.width, layer.per_layer.width))
        if layer.rescaled:
            x = ops.scale(x, w.output_scale)
        if index == spec.backout:
            middle = x
    x = ops.take(x)
    if middle is not None:
        x = ops.add(x, ops.scale(ops.take(middle), weights.backout_scale), 1.0, -1.0)
    x = norm(ops, x, weights.final_norm, spec.final_norm)
    if weights.output_projection is not None:
        x = project(ops, x, weights.output_projection)
    if wanted == "hidden":
        return x
    return ops.logits(x, weights.output.matrix, weights.output.bias, spec.output)


def embed(ops: Ops, spec: ModelSpec, weights: Weights) -> X:
    """X [n, hidden]: the first layer's input."""
    x = embedded(ops, spec, weights, "tokens")
    if spec.embedding.smear is None:
        return x
    gate = ops.activate(project(ops, ops.columns(x, 0, spec.embedding.smear), weights.smear_gate), "sigmoid")
    previous = embedded(ops, spec, weights, "previous")
    return ops.add(x, ops.weigh(previous, ops.scale(gate, weights.smear_scale)))


def embedded(ops: Ops, spec: ModelSpec, weights: Weights, source: Literal["tokens", "previous"]) -> X:
    x = ops.embed(weights.embedding, source)
    if weights.embedding_projection is not None:
        x = project(ops, x, weights.embedding_projection)
    if spec.embedding.scale != 1.0:
        x = ops.scale(x, spec.embedding.scale)
    if spec.embedding.positions is not None:
        x = ops.add(x, ops.embed(weights.positions, "positions", spec.embedding.positions.offset))
    return norm(ops, x, weights.embedding_norm, spec.embedding.norm)


def per_layer_inputs(ops: Ops, spec: ModelSpec, weights: Weights, first: X) -> X | None:
    """What layers add at their ends, before it is gated: X [n, layers * own width], see `PerLayer`; None where they add nothing."""
    per_layer = spec.layers[0].per_layer if spec.layers else None  # tests run models without layers
    if per_layer is None:
        return None
    divided = replace(per_layer.norm, epsilon=per_layer.norm.epsilon * spec.hidden)  # the same norm of what is not divided by sqrt(hidden)
    of_text = norm(ops, project(ops, first, weights.per_layer_projection), weights.per_layer_norm, divided, len(spec.layers))
    return ops.add(of_text, ops.embed(weights.per_layer_embedding, "tokens"), 0.5**0.5, (per_layer.width / 2) ** 0.5)


def add_per_layer(ops: Ops, spec: PerLayer, w: LayerWeights, x: X, own: X) -> X:
    gated = ops.gate(project(ops, x, w.per_layer_gate), own, spec.activation)
    return ops.add(x, norm(ops, project(ops, gated, w.per_layer_projection), w.per_layer_norm, spec.norm))


def sequential_layer(ops: Ops, layer: Layer, w: LayerWeights, x: X, index: int) -> X:
    """Attention, then the feed-forward block on its sum: X [n, hidden]."""
    h = norm(ops, x, w.attention_norm, layer.attention_norm)
    a = norm(ops, mixed(ops, layer, w, h, index), w.attention_post_norm, layer.attention_post_norm)
    x = norm(ops, residual(ops, layer, x, h, a), w.attention_sum_norm, layer.attention_sum_norm)
    h = norm(ops, x, w.mlp_norm, layer.mlp_norm)
    m = norm(ops, feed_forward(ops, layer, w, x, h), w.mlp_post_norm, layer.mlp_post_norm)
    return norm(ops, residual(ops, layer, x, h, m), w.mlp_sum_norm, layer.mlp_sum_norm)


def parallel_layer(ops: Ops, layer: Layer, w: LayerWeights, x: X, index: int) -> X:
    """Attention and the feed-forward block side by side on the same input: X [n, hidden]."""
    h = norm(ops, x, w.attention_norm, layer.attention_norm)
    a = mixed(ops, layer, w, h, index)
    m = feed_forward(ops, layer, w, x, h if layer.mlp_norm is None else norm(ops, x, w.mlp_norm, layer.mlp_norm))
    return residual(ops, layer, x, h, ops.add(a, m))


def residual(ops: Ops, layer: Layer, x: X, normed: X, branch: X) -> X:
    return ops.add(normed if layer.residual == "normed" else x, branch, layer.residual_scale, layer.branch_scale)


def feed_forward(ops: Ops, layer: Layer, w: LayerWeights, x: X, h: X) -> X:
    """The layer's dense block, or its mixture of experts, of x, which was normalised as h: X [n, hidden]."""
    if isinstance(layer.mlp, Mlp):
        return mlp(ops, layer.mlp, w.mlp, h)
    moe: Moe = layer.mlp
    assert w.experts is not None
    apart = moe.branch_norm
    routed, given = (h, h) if apart is None else (norm(ops, x, w.router_norm, apart), norm(ops, x, w.experts_norm, apart))
    routed = routed if moe.router.input_scale == 1.0 else ops.scale(routed, moe.router.input_scale)
    out = ops.experts(given, project(ops, routed, w.router), w.experts, moe, w.router_correction, w.expert_scale)
    out = norm(ops, out, w.experts_post_norm, apart)
    if moe.shared is None:
        return out
    shared = norm(ops, mlp(ops, moe.shared, w.mlp, h), w.shared_post_norm, apart)
    if moe.shared_gated:
        shared = ops.weigh(shared, ops.activate(project(ops, h, w.shared_gate), "sigmoid"))
    return ops.add(out, shared)


def mlp(ops: Ops, spec: Mlp, w: MlpWeights | None, h: X) -> X:
    """Gated or plain feed-forward block: X [n, hidden]."""
    assert w is not None
    if spec.gated:
        return project(ops, ops.gate(project(ops, h, w.gate), project(ops, h, w.up), spec.activation), w.down)
    return project(ops, ops.activate(project(ops, h, w.up), spec.activation), w.down)
