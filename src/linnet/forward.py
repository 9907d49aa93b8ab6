"""The decoder loop: the only one, for every family on every op set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import Attention, Mlp, ModelSpec
from linnet.ops.base import Batch, Ops
from linnet.weights import LayerWeights, Linear, Weights


def forward(ops: Ops, spec: ModelSpec, weights: Weights, batch: Batch) -> NDArray[np.float32]:
    """Logits, float32 [len(batch.rows), vocab], of the rows that the batch asks for.

    Also writes keys and values of every input row to the op set's KV pages.
    """
    ops.begin(spec, batch)
    x = ops.embed(weights.embedding)
    for index, (layer, w) in enumerate(zip(spec.layers, weights.layers, strict=True)):
        h = ops.norm(x, w.attention_norm, layer.attention_norm)
        x = ops.add(x, attention(ops, layer.attention, w, h, index))
        h = ops.norm(x, w.mlp_norm, layer.mlp_norm)
        x = ops.add(x, mlp(ops, layer.mlp, w, h))
    x = ops.norm(ops.take(x), weights.final_norm, spec.final_norm)
    return ops.logits(x, weights.output)


def attention(ops: Ops, spec: Attention, w: LayerWeights, h: Any, index: int) -> Any:
    """Project, normalise and rotate per head, attend over the pages, project back: X [n, hidden]."""
    q, k, v = project(ops, h, w.query), project(ops, h, w.key), project(ops, h, w.value)
    if spec.query_norm is not None:
        q = ops.norm(q, w.query_norm, spec.query_norm, groups=spec.heads)
    if spec.key_norm is not None:
        k = ops.norm(k, w.key_norm, spec.key_norm, groups=spec.kv_heads)
    if spec.rope is not None:
        q, k = ops.rotate(q, spec.rope, spec.head_dim), ops.rotate(k, spec.rope, spec.head_dim)
    return project(ops, ops.attend(q, k, v, index, spec), w.attention_output)


def mlp(ops: Ops, spec: Mlp, w: LayerWeights, h: Any) -> Any:
    """Gated or plain feed-forward block: X [n, hidden]."""
    if spec.gated:
        assert w.gate is not None  # assemble() proved it
        inner = ops.gate(project(ops, h, w.gate), project(ops, h, w.up), spec.activation)
    else:
        inner = ops.activate(project(ops, h, w.up), spec.activation)
    return project(ops, inner, w.down)


def project(ops: Ops, x: Any, linear: Linear) -> Any:
    return ops.linear(x, linear.matrix, linear.bias)
