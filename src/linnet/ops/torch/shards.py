"""Tensor parallelism: the share of a model that one of several devices has (Shoeybi et al. 2019, Megatron-LM).

Heads, columns that are convolved and those inside feed-forward blocks are divided. What leaves such a part is a sum of which every device
has a term: the matrix that makes it is a `Partial`, and the op set adds the terms up. Everything else is everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from linnet.arch.spec import Attention, GatedDeltaNet, Layer, Mixer, Mlp, ModelSpec, Moe, ShortConvolution
from linnet.errors import InvalidRequestError
from linnet.load.dequantize import dequantize
from linnet.load.field import Slot
from linnet.tensors import F32, FLOATS, RawTensor
from linnet.weights import LayerWeights, Linear, MlpWeights, Weights

BY_QUERY_HEADS = ("attention.query", "attention.sinks", "attention.query_norm", "attention.gate")
BY_KV_HEADS = ("attention.key", "attention.value", "attention.value_gate", "attention.key_norm")
BY_WIDTH = ("mlp.up", "mlp.gate", "experts.up", "experts.gate")
BY_NET_KEYS = ("delta_net.query", "delta_net.key", "delta_net.query_filter", "delta_net.key_filter")
BY_NET_VALUES = tuple(f"delta_net.{name}" for name in ("value", "value_filter", "rate", "strength", "gate", "decay"))
BY_CONVOLVED = ("convolution.value", "convolution.input_gate", "convolution.output_gate", "convolution.filter")
"""Fields of which a device has some rows: of its heads, or of its columns inside the block. Their biases likewise."""

SUMMED = ("mlp.down.matrix", "experts.down.matrix", "convolution.output.matrix")
"""Matrices of which a device has as many columns as any other; attention's and the delta rule's go by heads."""


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
            widths = [width for width in _widths(layer) if width % self.size]
            if reason := f"a block is {widths[0]} wide" if widths else _undivided(layer.mixer, self.size):
                raise InvalidRequestError(
                    f"tp is {self.size}, and layer {index} of the model cannot be divided so: {reason}; choose another tp"
                )

    @property
    def own_spec(self) -> ModelSpec:
        """What this device computes."""
        return replace(self.spec, layers=tuple(self._own_layer(layer) for layer in self.spec.layers))

    def _own_layer(self, layer: Layer) -> Layer:
        own = self._own_mixer(layer.mixer)
        if isinstance(layer.mlp, Mlp):
            return replace(layer, mixer=own, mlp=self._own_mlp(layer.mlp))
        shared = layer.mlp.shared and self._own_mlp(layer.mlp.shared)
        return replace(layer, mixer=own, mlp=replace(layer.mlp, expert=self._own_mlp(layer.mlp.expert), shared=shared))

    def _own_mixer(self, mixer: Mixer) -> Mixer:
        if isinstance(mixer, ShortConvolution):
            return replace(mixer, width=mixer.width // self.size)
        if isinstance(mixer, GatedDeltaNet):
            return replace(mixer, key_heads=self._count(mixer.key_heads), value_heads=self._count(mixer.value_heads))
        start, stop = self._heads(mixer.heads)
        alibi = None if mixer.alibi is None else mixer.alibi[start:stop]
        return replace(mixer, heads=stop - start, kv_heads=self._count(mixer.kv_heads), alibi=alibi)

    def _own_mlp(self, mlp: Mlp) -> Mlp:
        return replace(mlp, width=mlp.width // self.size)

    def _heads(self, count: int) -> tuple[int, int]:
        """Which heads of `count` are this device's; where there are fewer than devices, some have the same one."""
        first = self.rank * count // self.size
        return first, first + self._count(count)

    def _count(self, heads: int) -> int:
        """How many of so many heads are this device's."""
        return max(1, heads // self.size)

    def __call__(self, slot: Slot, raw: RawTensor) -> RawTensor:
        """What this device has of a field's tensor; the bytes of the rest are not read."""
        cut = None if slot.layer is None else self._cut(slot, self.spec.layers[slot.layer].mixer)
        if cut is None:
            return raw
        axis, parts, (start, stop) = cut
        if axis == -1 and slot.field.endswith("_norm.weight"):  # [heads, head_dim] in some files
            raw = RawTensor(raw.name, (prod(raw.shape),), raw.type, raw.data)
        each = raw.shape[axis] // parts
        return cut_axis(raw, axis, start * each, stop * each)

    def _cut(self, slot: Slot, mixer: Mixer) -> tuple[int, int, tuple[int, int]] | None:
        """Along which axis (of one matrix, filter or vector), of how many parts, which ones; None: all of it."""
        field, _, kind = slot.field.rpartition(".")
        field = slot.field if kind in ("sinks", "decay") else field
        axis = -2 if kind == "matrix" else -3 if field.endswith("filter") and kind == "weight" else -1
        if field in BY_WIDTH or field in BY_CONVOLVED:
            return axis, self.size, (self.rank, self.rank + 1)
        if slot.field in SUMMED:
            return -1, self.size, (self.rank, self.rank + 1)
        count = self._heads_of(slot, field, mixer)
        axis = -1 if slot.field.endswith(".output.matrix") else axis
        return None if count is None else (axis, count, self._heads(count))

    def _heads_of(self, slot: Slot, field: str, mixer: Mixer) -> int | None:
        """How many heads have a share each of a mixer's field; None: all of them have all of it."""
        if isinstance(mixer, GatedDeltaNet):
            if field in BY_NET_KEYS:
                return mixer.key_heads
            return mixer.value_heads if field in BY_NET_VALUES or slot.field == "delta_net.output.matrix" else None
        if not isinstance(mixer, Attention) or (field.endswith("_norm") and prod(slot.field_shape) == mixer.head_dim):
            return None  # a norm that is one for all heads
        if field in BY_KV_HEADS or slot.field == "attention.value_embedding":
            return mixer.kv_heads
        return mixer.heads if field in BY_QUERY_HEADS or slot.field == "attention.output.matrix" else None


def _undivided(mixer: Mixer, size: int) -> str | None:
    """Why `size` devices cannot divide it, if they cannot."""
    if isinstance(mixer, ShortConvolution):
        return f"it convolves {mixer.width} columns" if mixer.width % size else None
    if isinstance(mixer, Attention):
        if (mixer.query_norm or mixer.key_norm) and not mixer.norm_heads:
            return "its queries and keys are normalised over all heads together"
        heads, key_heads, named = mixer.heads, mixer.kv_heads, ("", "key and value ")
    else:
        heads, key_heads, named = mixer.value_heads, mixer.key_heads, ("value ", "key ")
    if key_heads % size and size % key_heads:
        return f"it has {key_heads} {named[1]}heads"
    return f"it has {heads} {named[0]}heads" if heads % size else None


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
    entry = raw.type.block_bytes if axis == -1 else raw.type.nbytes(raw.shape[axis + 1 :])
    data = raw.data.reshape(-1, raw.shape[axis] // block, entry)[:, start // block : stop // block]
    shape = list(raw.shape)
    shape[axis] = stop - start
    return RawTensor(raw.name, tuple(shape), raw.type, data.reshape(-1))


def with_partial_sums(weights: Weights) -> Weights:
    """The same weights, with the matrices that this device has columns of marked as such."""
    return replace(weights, layers=tuple(_with_partial_sums(layer) for layer in weights.layers))


def _with_partial_sums(layer: LayerWeights) -> LayerWeights:
    mixers = {name: mixer for name in ("attention", "delta_net", "convolution") if (mixer := getattr(layer, name)) is not None}
    partial = {name: replace(mixer, output=_partial(mixer.output)) for name, mixer in mixers.items()}
    return replace(layer, **partial, mlp=_partial_down(layer.mlp), experts=_partial_down(layer.experts))


def _partial_down(mlp: MlpWeights | None) -> MlpWeights | None:
    return mlp and replace(mlp, down=_partial(mlp.down))


def _partial(linear: Linear) -> Linear:
    return replace(linear, matrix=Partial(linear.matrix))
