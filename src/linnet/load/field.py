"""One field of a model's weights: from the tensors that a file has, through what its table says of them, to the op set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np

from linnet.arch.spec import ModelSpec, Temperature
from linnet.arch.table import Part, Stored
from linnet.errors import ModelFileError
from linnet.load.convert import convert, loaded_as
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode, encoded
from linnet.load.source import Source
from linnet.tensors import F32, FLOATS, RawTensor, TensorType

log = logging.getLogger("linnet.load")

TABLES = ("embedding", "positions", "attention.value_embedding", "per_layer_embedding")
"""Matrices whose field is not called so."""

KEPT = (
    "router.matrix",
    "shared_gate.matrix",
    "attention.value_gate.matrix",
    "delta_net.rate.matrix",
    "delta_net.strength.matrix",
    "smear_gate.matrix",
    "positions",
)
"""Matrices that are never re-encoded: a fraction of a model's bytes, and whatever their rounding shifts, experts among it, shifts
the answer."""


class WeightOps(Protocol):
    """What loading needs of an op set (see `linnet.ops.base.Ops`)."""

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Any: ...

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> Any: ...

    def vector(self, raw: RawTensor) -> Any: ...

    def owns(self, matrix: Any) -> bool: ...


@dataclass(frozen=True)
class Slot:
    """One field to load: where it goes (layer None: outside the layers), its shape, the tensors that hold it (one, or one per
    expert or head), the shape that each must have in the file, and how the file stores it."""

    field: str
    layer: int | None
    field_shape: tuple[int, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    stored: Stored

    @property
    def is_matrix(self) -> bool:
        return self.field.endswith(".matrix") or self.field in TABLES

    @property
    def is_stack(self) -> bool:
        return self.field.startswith("experts.")

    @property
    def needs_floats(self) -> bool:
        return not self.is_matrix or self.stored.unit_rows


def slot_of(spec: ModelSpec, field: str, layer: int | None, stored: Stored, shape: tuple[int, ...]) -> Slot:
    """The slot of a field whose own shape is `shape`."""
    slot = Slot(field, layer, shape, (stored.name.replace("{layer}", str(layer)),), shape, stored)
    if "{expert}" in stored.name:
        names = tuple(slot.names[0].replace("{expert}", str(expert)) for expert in range(shape[0]))
        slot = replace(slot, names=names)
        shape = shape[1:]
    if "{head}" in stored.name:
        assert layer is not None
        attention = spec.layers[layer].attention
        heads = attention.kv_heads if field.startswith(("attention.key", "attention.value")) else attention.heads
        slot = replace(slot, names=tuple(slot.names[0].replace("{head}", str(head)) for head in range(heads)))
        shape = (shape[0] // heads, *shape[1:])
    if stored.by_layer:
        shape = (len(spec.layers),)
    if stored.part is not None:
        axis = 1 if slot.is_stack and "{expert}" not in stored.name else 0
        shape = (*shape[:axis], _whole(slot, stored.part, shape[axis]), *shape[axis + 1 :])
    if stored.transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    if stored.shape is not None and prod(stored.shape) != prod(shape):
        raise _misfit(slot, f"is stored as {list(stored.shape)}, which holds not as much as its {list(shape)}")
    return replace(slot, shape=stored.shape or shape)


def type_in_memory(slot: Slot, stored: TensorType, target: TensorType | None) -> TensorType:
    """The type that a matrix of type `stored` is loaded as."""
    type = loaded_as(stored)
    if slot.stored.transposed and type not in FLOATS:
        type = F32
    return type if target is None or slot.field in KEPT or slot.field_shape[-1] % target.block else target


def _whole(slot: Slot, part: Part, count: int) -> int:
    """Rows of the tensor of which a field's `count` rows are the part."""
    taken = len(range(part.start, part.stop, part.step)) * part.groups
    if not 0 <= part.start < part.stop <= part.rows or taken != count:
        raise _misfit(slot, f"takes {taken} rows ({part}) and has {count}")
    return part.rows * part.groups


def _misfit(slot: Slot, what: str) -> ModelFileError:
    place = slot.field if slot.layer is None else f"layers.{slot.layer}.{slot.field}"
    return ModelFileError(f"{slot.names[0]}: spec and table disagree: {place} {what}")


Cut = Callable[[Slot, RawTensor], RawTensor]
"""What of a field's tensor is to be loaded, where several processes divide a model."""


def load_field(ops: WeightOps, source: Source, slot: Slot, target: TensorType | None, cut: Cut | None = None) -> tuple[Any, bool]:
    """The op set's matrix, stack or vector of a slot, and whether it still reads the source; `target` re-encodes matrices as
    `type_in_memory` says. cut: None: all of it."""
    stored = [source.read(name) for name in slot.names]
    raws = [_as_wanted(raw, slot) for raw in stored]
    if len(raws) > 1 and not slot.is_stack:
        raws = [_rows_joined(raws)]
    wanted = type_in_memory(slot, stored[0].type, target)
    if cut is not None:
        raws = [_cut(slot, raw, wanted, cut) for raw in raws]
    if not slot.is_matrix:
        return ops.vector(raws[0] if len(raws) == 1 else _joined(raws)), False
    if target is not None and target != wanted and slot.field not in KEPT:
        columns, name = slot.field_shape[-1], wanted.name
        log.warning("%s stays %s: its rows of %d are not a multiple of %s's %d", raws[0].name, name, columns, target.name, target.block)
    raws = [raw if loaded_as(raw.type) == raw.type else convert(raw, wanted) for raw in raws]
    target = None if wanted == raws[0].type else wanted
    matrix = ops.stack([expert for raw in raws for expert in _experts(raw)], target) if slot.is_stack else ops.matrix(raws[0], target)
    views = any(np.may_share_memory(given.data, raw.data) for given, raw in zip(raws, stored, strict=False))
    return matrix, views and not ops.owns(matrix)


def _cut(slot: Slot, raw: RawTensor, wanted: TensorType, cut: Cut) -> RawTensor:
    """What of a tensor is to be loaded. Encoders weigh a value by all of its row: rows that are divided are encoded before."""
    taken = cut(slot, raw)
    if not slot.is_matrix or taken.shape[-1] == raw.shape[-1] or wanted in (raw.type, *FLOATS):
        return taken
    return cut(slot, encoded(_floats(raw), wanted))


def _as_wanted(raw: RawTensor, slot: Slot) -> RawTensor:
    """The tensor with what its table asks for done to it; the same bytes where that is nothing."""
    stored = slot.stored
    if stored.by_layer:
        assert slot.layer is not None
        return RawTensor(raw.name, (1,), raw.type, raw.data.reshape(-1, raw.type.block_bytes)[slot.layer])
    if stored.transposed:
        raw = _transposed(_floats(raw))
    if stored.part is not None:
        raw = _part(raw, stored.part, slot.is_stack and len(slot.names) == 1)
    if stored.plus:
        raw = RawTensor(raw.name, raw.shape, F32, (dequantize(raw) + np.float32(stored.plus)).reshape(-1).view(np.uint8))
    if stored.apply is not None:
        values = (np.exp if stored.apply == "exp" else np.negative)(dequantize(raw), dtype=np.float32)
        raw = RawTensor(raw.name, raw.shape, F32, values.reshape(-1).view(np.uint8))
    if stored.unit_rows:
        values = dequantize(raw)
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.float32(1e-12))
        raw = replace(raw, data=encode(values, raw.type).reshape(-1))
    return raw if stored.shape is None else replace(raw, shape=slot.field_shape)


def _floats(raw: RawTensor) -> RawTensor:
    """A tensor of floats as it is, one of blocks as float32."""
    if raw.type in FLOATS:
        return raw
    loaded = loaded_as(raw.type)
    values = dequantize(raw if loaded == raw.type else convert(raw, loaded))
    return RawTensor(raw.name, raw.shape, F32, values.reshape(-1).view(np.uint8))


def _transposed(raw: RawTensor) -> RawTensor:
    """The last two axes of floats exchanged; a copy."""
    shape = (*raw.shape[:-2], raw.shape[-1], raw.shape[-2])
    values = raw.data.reshape(*raw.shape, raw.type.block_bytes).swapaxes(-3, -2)
    return RawTensor(raw.name, shape, raw.type, np.ascontiguousarray(values).reshape(-1))


def _part(raw: RawTensor, part: Part, stacked: bool) -> RawTensor:
    """Some rows of a matrix, or of every matrix of a stack; whole rows, so that any type will do."""
    lead = raw.shape[:1] if stacked else ()
    row_shape = raw.shape[len(lead) + 1 :]
    data = raw.data.reshape(*lead, part.groups, part.rows, -1)[..., part.start : part.stop : part.step, :]
    return RawTensor(raw.name, (*lead, part.groups * data.shape[-2], *row_shape), raw.type, data.reshape(-1))


def _experts(raw: RawTensor) -> list[RawTensor]:
    """The matrices of a stack, as views; a matrix by itself is its only one."""
    if len(raw.shape) == 2:
        return [raw]
    data = raw.data.reshape(raw.shape[0], -1)
    return [RawTensor(raw.name, raw.shape[1:], raw.type, expert) for expert in data]


def _rows_joined(raws: Sequence[RawTensor]) -> RawTensor:
    """Matrices or vectors of one type and width under each other."""
    first = raws[0]
    rows = sum(raw.shape[0] for raw in raws)
    return RawTensor(first.name, (rows, *first.shape[1:]), first.type, np.concatenate([raw.data for raw in raws]))


def _joined(raws: Sequence[RawTensor]) -> RawTensor:
    """Vectors of one length under each other."""
    first = raws[0]
    return RawTensor(first.name, (len(raws), *first.shape), first.type, np.concatenate([raw.data for raw in raws]))


def sinusoidal_table(count: int, hidden: int) -> RawTensor:
    """Vaswani et al. 2017: sine and cosine of position / 10000^(2i / hidden) side by side, float32 [count, hidden]."""
    angles = np.arange(count)[:, None] / 10000.0 ** (np.arange(0, hidden, 2) / hidden)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, -1)[:, :hidden].astype(np.float32)
    return RawTensor("sinusoidal positions", (count, hidden), F32, np.ascontiguousarray(table).reshape(-1).view(np.uint8))


def temperature_table(count: int, temperature: Temperature) -> RawTensor:
    """What queries are multiplied by at each position, float32 [count, 1]."""
    factors = 1 + temperature.beta * np.log(1 + np.arange(count) // temperature.length)
    return RawTensor("temperatures", (count, 1), F32, factors.astype(np.float32).view(np.uint8))
