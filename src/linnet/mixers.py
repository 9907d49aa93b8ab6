"""How a layer's tokens learn of those before them: attention, and the recurrent mixers that may stand in its place.

X is an op set's activations, [n, width], as in `forward.py`; what each option of a spec means stands in `arch/spec.py`.
"""

from __future__ import annotations

from typing import Any

from linnet.arch.spec import Attention, GatedDeltaNet, Latent, Layer, Norm, ShortConvolution
from linnet.ops.base import Ops
from linnet.weights import PLAIN, AttentionWeights, ConvolutionWeights, DeltaNetWeights, LayerWeights, Linear, NormWeights

X = Any


def mixed(ops: Ops, layer: Layer, w: LayerWeights, h: X, index: int) -> X:
    """What each token learns of those before it, by the layer's mixer: X [n, hidden]."""
    if isinstance(layer.mixer, Attention):
        return attention(ops, layer.mixer, w.attention, h, index)
    if isinstance(layer.mixer, GatedDeltaNet):
        return delta_net(ops, layer.mixer, w.delta_net, h, index)
    return convolution(ops, layer.mixer, w.convolution, h, index)


def attention(ops: Ops, spec: Attention, w: AttentionWeights | None, h: X, index: int) -> X:
    """Project, normalise and rotate per head, attend over the pages, project back: X [n, hidden]."""
    assert w is not None  # assemble() proved it, here and wherever weights are asked for
    q, k, v = latent_heads(ops, spec, spec.latent, w, h) if spec.latent else heads(ops, spec, w, h)
    if spec.temperature is not None:
        q = ops.weigh(q, ops.embed(w.temperatures, "positions"))
    a = ops.attend(q, k, v, index if spec.kv_layer is None else spec.kv_layer, spec, w.sinks)
    if spec.gated:
        a = ops.weigh(a, ops.activate(project(ops, h, w.gate), "sigmoid"))
    return project(ops, a, w.output)


def heads(ops: Ops, spec: Attention, w: AttentionWeights, h: X) -> tuple[X, X | None, X | None]:
    """Queries [n, query_width], keys [n, key_width] and values [n, value_width], ready to attend; no keys and values where an earlier
    layer's are read."""
    q = project(ops, h, w.query)
    if spec.kv_layer is not None:
        return turned(ops, spec, q, w.query_norm, spec.query_norm, spec.heads), None, None
    k = project(ops, h, w.key)
    v = k if spec.keys_as_values else project(ops, h, w.value)
    v = norm(ops, v, PLAIN, spec.value_norm, spec.kv_heads)
    if spec.value_gate is not None:
        gate = ops.activate(project(ops, ops.columns(h, 0, spec.value_gate), w.value_gate), "sigmoid")
        v = ops.add(v, ops.weigh(ops.embed(w.value_embedding, "tokens"), gate), 1.0, spec.value_gate_scale)
    q = turned(ops, spec, q, w.query_norm, spec.query_norm, spec.heads)
    return q, turned(ops, spec, k, w.key_norm, spec.key_norm, spec.kv_heads), v


def turned(ops: Ops, spec: Attention, x: X, w: NormWeights, normed: Norm | None, heads: int) -> X:
    """Queries or keys, normalised and rotated per head."""
    groups = heads if spec.norm_heads else 1
    x = x if spec.norm_rotated else norm(ops, x, w, normed, groups)
    for rope in spec.ropes:
        x = ops.rotate(x, rope, spec.head_dim)
    return norm(ops, x, w, normed, groups) if spec.norm_rotated else x


def latent_heads(ops: Ops, spec: Attention, latent: Latent, w: AttentionWeights, h: X) -> tuple[X, X, X]:
    """The same from latent projections. Keys and values are stored expanded, so that prompts and decoding compute alike."""
    down = h if w.query_down is None else norm(ops, project(ops, h, w.query_down), w.query_down_norm, latent.norm)
    q, shared = project(ops, down, w.query), project(ops, h, w.shared_key)
    compressed = norm(ops, project(ops, h, w.key_value_down), w.key_value_norm, latent.norm)
    k, v = project(ops, compressed, w.key), project(ops, compressed, w.value)
    k = ops.append_shared(k, shared, spec.kv_heads)
    for rope in spec.ropes:
        q, k = ops.rotate(q, rope, spec.head_dim), ops.rotate(k, rope, spec.head_dim)
    return q, k, v


def delta_net(ops: Ops, spec: GatedDeltaNet, w: DeltaNetWeights | None, h: X, index: int) -> X:
    """Project and convolve, pass the state of every head, normalise, gate, project back: X [n, hidden]."""
    assert w is not None
    pieces, start = [], 0
    for linear, taps, width in zip((w.query, w.key, w.value), (w.query_filter, w.key_filter, w.value_filter), spec.tap_widths, strict=True):
        pieces.append(ops.activate(ops.convolve(project(ops, h, linear), taps, index, spec.taps, start), "silu"))
        start += (spec.taps - 1) * width
    q, k, v = pieces
    q, k = (of_length_one(ops, x, spec) for x in (q, k))
    strength = ops.activate(project(ops, h, w.strength), "sigmoid")
    x = ops.delta_rule(ops.scale(q, spec.key_dim**-0.5), k, v, project(ops, h, w.rate), strength, w.decay, index, spec)
    x = ops.gate(project(ops, h, w.gate), norm(ops, x, w.norm, spec.norm, spec.value_heads), "silu")
    return project(ops, x, w.output)


def of_length_one(ops: Ops, x: X, spec: GatedDeltaNet) -> X:
    """Each head of queries or keys divided by its length: that is by sqrt(key_dim) and by the root of its mean square."""
    mean_square = Norm(1e-6 / spec.key_dim)
    return ops.scale(norm(ops, x, PLAIN, mean_square, spec.key_heads), spec.key_dim**-0.5)


def convolution(ops: Ops, spec: ShortConvolution, w: ConvolutionWeights | None, h: X, index: int) -> X:
    """Project, gate, convolve, gate, project back: X [n, hidden]."""
    assert w is not None
    x = ops.weigh(project(ops, h, w.value), project(ops, h, w.input_gate))
    x = ops.weigh(ops.convolve(x, w.filter, index, spec.taps), project(ops, h, w.output_gate))
    return project(ops, x, w.output)


def project(ops: Ops, x: X, linear: Linear | None) -> X:
    assert linear is not None
    return ops.linear(x, linear.matrix, linear.bias)


def norm(ops: Ops, x: X, w: NormWeights, spec: Norm | None, groups: int = 1) -> X:
    """X itself where the family does not normalise."""
    return x if spec is None else ops.norm(x, w, spec, groups)
