"""Tensor parallelism: the share of a model that one of several devices has (Shoeybi et al. 2019, Megatron-LM).

Heads and the columns inside feed-forward blocks are divided. What leaves such a part is a sum of which every device has a term: the
matrix that makes it is a `Partial`, and the op set adds the terms up. Everything else is everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Moe
from linnet.errors import InvalidRequestError
from linnet.load.dequantize import dequantize
from linnet.load.field import Slot
from linnet.tensors import F32, FLOATS, RawTensor
from linnet.weights import LayerWeights, Linear, MlpWeights, Weights

BY_QUERY_HEADS = ("attention.query", "attention.sinks", "attention.query_norm")
BY_KV_HEADS = ("attention.key", "attention.value", "attention.value_gate", "attention.key_norm")
BY_WIDTH = ("mlp.up", "mlp.gate", "experts.up", "experts.gate")
"""Fields of which a device has some rows: of its heads, or of its columns inside the block. Their biases likewise."""


@dataclass(frozen=True)
class Partial:
    """A matrix, or a stack of them, of which this device has some columns: its products are terms of sums over all devices."""

    values: Any


@dataclass(frozen=True)
class Share:
    """Rank `rank` of `size`. Raises InvalidRequestError where the model cannot be divided so."""

    spec: ModelSpec
    rank: int
    size: int

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.spec.layers):
            attention, size = layer.attention, self.size
            whole_rows = (attention.query_norm or attention.key_norm) and not attention.norm_heads
            reason = f"it has {attention.heads} heads" if attention.heads % size else ""
            if attention.kv_heads % size and size % attention.kv_heads:
                reason = f"it has {attention.kv_heads} key and value heads"
            reason = next((f"a block is {width} wide" for width in _widths(layer) if width % size), reason)
            if whole_rows:
                reason = "its queries and keys are normalised over all heads together"
            if reason:
                raise InvalidRequestError(f"tp is {size}, and layer {index} of the model cannot be divided so: {reason}; choose another tp")

    @property
    def own_spec(self) -> ModelSpec:
        """What this device computes."""
        return replace(self.spec, layers=tuple(self._own_layer(layer) for layer in self.spec.layers))

    def _own_layer(self, layer: Layer) -> Layer:
        attention = layer.attention
        start, stop = self._heads(attention.heads)
        alibi = None if attention.alibi is None else attention.alibi[start:stop]
        first, last = self._heads(attention.kv_heads)
        own = replace(attention, heads=stop - start, kv_heads=last - first, alibi=alibi)
        if isinstance(layer.mlp, Mlp):
            return replace(layer, attention=own, mlp=self._own_mlp(layer.mlp))
        shared = layer.mlp.shared and self._own_mlp(layer.mlp.shared)
        return replace(layer, attention=own, mlp=replace(layer.mlp, expert=self._own_mlp(layer.mlp.expert), shared=shared))

    def _own_mlp(self, mlp: Mlp) -> Mlp:
        return replace(mlp, width=mlp.width // self.size)

    def _heads(self, count: int) -> tuple[int, int]:
        """Which heads of `count` are this device's; where there are fewer than devices, some have the same one."""
        first = self.rank * count // self.size
        return first, first + max(1, count // self.size)

    def __call__(self, slot: Slot, raw: RawTensor) -> RawTensor:
        """What this device has of a field's tensor; the bytes of the rest are not read."""
        cut = None if slot.layer is None else self._cut(slot, self.spec.layers[slot.layer].attention)
        if cut is None:
            return raw
        axis, parts, (start, stop) = cut
        if axis == -1 and slot.field.endswith("_norm.weight"):  # [heads, head_dim] in some files
            raw = RawTensor(raw.name, (prod(raw.shape),), raw.type, raw.data)
        each = raw.shape[axis] // parts
        return cut_axis(raw, axis, start * each, stop * each)

    def _cut(self, slot: Slot, attention: Attention) -> tuple[int, int, tuple[int, int]] | None:
        """Along which axis (of one matrix or vector), of how many parts, which ones; None: all of it."""
        field, _, kind = slot.field.rpartition(".")
        field = slot.field if kind == "sinks" else field
        axis = -2 if kind == "matrix" else -1
        if field.endswith("_norm") and prod(slot.field_shape) == attention.head_dim:
            return None  # one for all heads
        if field in BY_QUERY_HEADS:
            return axis, attention.heads, self._heads(attention.heads)
        if field in BY_KV_HEADS:
            return axis, attention.kv_heads, self._heads(attention.kv_heads)
        if slot.field == "attention.value_embedding":
            return -1, attention.kv_heads, self._heads(attention.kv_heads)
        if slot.field == "attention.output.matrix":
            return -1, attention.heads, self._heads(attention.heads)
        if field in BY_WIDTH:
            return axis, self.size, (self.rank, self.rank + 1)
        if slot.field in ("mlp.down.matrix", "experts.down.matrix"):
            return -1, self.size, (self.rank, self.rank + 1)
        return None


def _widths(layer: Layer) -> list[int]:
    mlp = layer.mlp
    if isinstance(mlp, Moe):
        return [mlp.expert.width, *([mlp.shared.width] if mlp.shared else [])]
    return [mlp.width]


def cut_axis(raw: RawTensor, axis: int, start: int, stop: int) -> RawTensor:
    """Entries `start` to `stop` of an axis counted from the end; blocks that would be cut are expanded to float32 first."""
    block = raw.type.block if axis == -1 else 1
    if raw.type not in FLOATS and axis == -1 and (start % block or stop % block):
        values = dequantize(raw)
        raw, block = RawTensor(raw.name, raw.shape, F32, values.reshape(-1).view(np.uint8)), 1
    entry = raw.type.block_bytes if axis == -1 else raw.type.nbytes(raw.shape[-1:])
    data = raw.data.reshape(-1, raw.shape[axis] // block, entry)[:, start // block : stop // block]
    shape = list(raw.shape)
    shape[axis] = stop - start
    return RawTensor(raw.name, tuple(shape), raw.type, data.reshape(-1))


def with_partial_sums(weights: Weights) -> Weights:
    """The same weights, with the matrices that this device has columns of marked as such."""
    return replace(weights, layers=tuple(_with_partial_sums(layer) for layer in weights.layers))


def _with_partial_sums(layer: LayerWeights) -> LayerWeights:
    attention = replace(layer.attention, output=_partial(layer.attention.output))
    return replace(layer, attention=attention, mlp=_partial_down(layer.mlp), experts=_partial_down(layer.experts))


def _partial_down(mlp: MlpWeights | None) -> MlpWeights | None:
    return mlp and replace(mlp, down=_partial(mlp.down))


def _partial(linear: Linear) -> Linear:
    return replace(linear, matrix=Partial(linear.matrix))
