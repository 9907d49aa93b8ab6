"""The weights of a decoder, assembled: one field for every tensor that `forward.py` reads.

`Any` stands for the op set's own matrix, stack of experts, or vector. Optional tensors are None where the family has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Linear:
    """A projection: matrix [out, in] and, where the family has one, bias [out]. Of experts: a stack of matrices and bias
    [experts, out]."""

    matrix: Any
    bias: Any | None = None


@dataclass(frozen=True)
class NormWeights:
    """weight and bias, each [width] or, for queries and keys, perhaps [head_dim]; None: ones and zeros."""

    weight: Any | None = None
    bias: Any | None = None


PLAIN = NormWeights()
"""Of a norm that has no weights."""


@dataclass(frozen=True)
class MlpWeights:
    """A feed-forward block, or a stack of them; `gate` is None in a plain one."""

    up: Linear
    down: Linear
    gate: Linear | None = None


@dataclass(frozen=True)
class AttentionWeights:
    """`query`, `key` and `value` project the layer's input, or what the latent projections made of it.

    sinks: [heads]. query_down, key_value_down, shared_key: see `Latent`. value_embedding: a table [vocab, value width];
    value_gate: a projection of the input's leading columns to one number per KV head. gate: to the width of what the heads give.
    temperatures: a table [context, 1] by position. key is None where an earlier layer's keys and values are read, and so is value, or
    where keys serve as values.
    """

    query: Linear
    output: Linear
    key: Linear | None = None
    value: Linear | None = None
    query_norm: NormWeights = PLAIN
    key_norm: NormWeights = PLAIN
    sinks: Any | None = None
    query_down: Linear | None = None
    query_down_norm: NormWeights = PLAIN
    key_value_down: Linear | None = None
    key_value_norm: NormWeights = PLAIN
    shared_key: Linear | None = None
    value_embedding: Any | None = None
    value_gate: Linear | None = None
    temperatures: Any | None = None
    gate: Linear | None = None


@dataclass(frozen=True)
class FilterWeights:
    """Of a convolution over positions: weight [width, 1, taps], the last tap that of a position itself; bias [width] or None."""

    weight: Any
    bias: Any | None = None


@dataclass(frozen=True)
class DeltaNetWeights:
    """See `GatedDeltaNet`. gate: to the width of the values; rate, strength: to one number for each value head; decay: [value_heads]."""

    query: Linear
    key: Linear
    value: Linear
    query_filter: FilterWeights
    key_filter: FilterWeights
    value_filter: FilterWeights
    rate: Linear
    strength: Linear
    decay: Any
    gate: Linear
    output: Linear
    norm: NormWeights = PLAIN


@dataclass(frozen=True)
class ConvolutionWeights:
    """See `ShortConvolution`."""

    value: Linear
    input_gate: Linear
    output_gate: Linear
    filter: FilterWeights
    output: Linear


@dataclass(frozen=True)
class LayerWeights:
    """The tensors of one decoder layer, of the mixer that it has. `mlp` is the dense block, or the shared one of a mixture.

    router: [experts, hidden]; router_correction, expert_scale: [experts]; shared_gate: [1, hidden]. router_norm, experts_norm,
    experts_post_norm, shared_post_norm: see `Moe.branch_norm`. per_layer_gate: [own width, hidden], per_layer_projection its inverse in
    shape, per_layer_norm: of what that gives. output_scale: [1].
    input_scale, first_scale: [1], what a remixed layer multiplies its input and the first layer's by.
    """

    attention: AttentionWeights | None = None
    delta_net: DeltaNetWeights | None = None
    convolution: ConvolutionWeights | None = None
    mlp: MlpWeights | None = None
    experts: MlpWeights | None = None
    router: Linear | None = None
    router_correction: Any | None = None
    expert_scale: Any | None = None
    shared_gate: Linear | None = None
    attention_norm: NormWeights = PLAIN
    mlp_norm: NormWeights = PLAIN
    attention_post_norm: NormWeights = PLAIN
    mlp_post_norm: NormWeights = PLAIN
    attention_sum_norm: NormWeights = PLAIN
    mlp_sum_norm: NormWeights = PLAIN
    router_norm: NormWeights = PLAIN
    experts_norm: NormWeights = PLAIN
    experts_post_norm: NormWeights = PLAIN
    shared_post_norm: NormWeights = PLAIN
    per_layer_gate: Linear | None = None
    per_layer_projection: Linear | None = None
    per_layer_norm: NormWeights = PLAIN
    input_scale: Any | None = None
    first_scale: Any | None = None
    output_scale: Any | None = None


@dataclass(frozen=True)
class Weights:
    """All of a decoder. `output.matrix` is `embedding` itself when the spec ties them.

    positions: a table [count, hidden]. embedding_projection, output_projection: between the table's width and the hidden size.
    smear_gate: [1, leading columns]; smear_scale and backout_scale: [1]. per_layer_embedding: a table [vocab, layers * own width],
    per_layer_projection: [layers * own width, hidden], per_layer_norm: [own width].
    """

    embedding: Any
    layers: tuple[LayerWeights, ...]
    output: Linear
    final_norm: NormWeights = PLAIN
    embedding_norm: NormWeights = PLAIN
    positions: Any | None = None
    embedding_projection: Linear | None = None
    output_projection: Linear | None = None
    smear_gate: Linear | None = None
    smear_scale: Any | None = None
    backout_scale: Any | None = None
    per_layer_embedding: Any | None = None
    per_layer_projection: Linear | None = None
    per_layer_norm: NormWeights = PLAIN
