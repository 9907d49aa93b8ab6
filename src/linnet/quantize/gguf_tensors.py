"""The tensors of a model in GGUF's layout: which there are, known from tables alone, and their values, made when they are asked for.

Where a family's table has a field under two namings, the tensor of one follows from those of the other: what reading does to it
(`linnet.load.field`) is undone here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import ModelSpec
from linnet.load.assemble import Place
from linnet.load.checkpoint import Checkpoint
from linnet.load.convert import decoded
from linnet.load.field import Slot, load_field
from linnet.tensors import F32, RawTensor, TensorType

Floats = NDArray[np.float32]

TURNED = tuple(f"attention.{name}" for name in ("query", "key", "query_norm", "key_norm"))
"""Fields whose rows lie in the order of rotary pairs."""
TURNED_LATENT = ("attention.query", "attention.shared_key")
"""The same of latent attention: a shared key is all pairs."""


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written, its `shape` outermost first.

    stored: the type that its values have in the source. places: the fields it holds, unless it is transposed. read: its values, whole
    rows in one piece or several (experts, mostly), views of the source wherever nothing is done to them. release: gives the source's
    pages back.
    """

    name: str
    shape: tuple[int, ...]
    stored: TensorType
    places: tuple[Place, ...]
    read: Callable[[], list[RawTensor]]
    release: Callable[[], None]

    @property
    def values(self) -> int:
        return prod(self.shape)


def place_of(slot: Slot) -> Place:
    return slot.layer, slot.field


def stored_tensors(checkpoint: Checkpoint, slots: Iterable[Slot]) -> list[Tensor]:
    """Those of a GGUF file as they are, in its order."""
    source = checkpoint.source
    places: dict[str, list[Place]] = {name: [] for name in source.names()}
    for slot in slots:
        for name in () if slot.stored.transposed else slot.names:
            places[name].append(place_of(slot))
    return [
        Tensor(
            name,
            source.shape(name),
            source.type(name),
            tuple(held),
            lambda name=name: [source.read(name)],  # type: ignore[misc]
            lambda name=name: source.release(name),  # type: ignore[misc]
        )
        for name, held in places.items()
    ]


def rearranged_tensors(
    checkpoint: Checkpoint, wanted: Mapping[str, list[Slot]], stored: Mapping[Place, Slot], said: ModelSpec
) -> list[Tensor]:
    """Tensors under other names than the checkpoint's. wanted: the fields that each of them holds. stored: the checkpoint's own of each
    field; one that it lacks is written as what its absence means. said: the spec of whoever reads the new tensors."""
    source = checkpoint.source

    def tensor(name: str, slots: list[Slot]) -> Tensor:
        own = [stored[place_of(slot)] for slot in slots if place_of(slot) in stored]
        names = dict.fromkeys(name for slot in own for name in slot.names)
        type = source.type(next(iter(names))) if names else F32

        def release() -> None:
            for name in names:
                source.release(name)

        places = tuple(place_of(slot) for slot in slots if not slot.stored.transposed)
        return Tensor(name, slots[0].shape, type, places, lambda: _read(checkpoint, name, slots, stored, said), release)

    return [tensor(name, slots) for name, slots in wanted.items()]


class _Raw:
    """An "op set" that keeps what is loaded as it is."""

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> list[RawTensor]:
        return [raw]

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> list[RawTensor]:
        return list(raws)

    def vector(self, raw: RawTensor) -> list[RawTensor]:
        return [raw]

    def owns(self, matrix: Any) -> bool:
        return False


def _read(checkpoint: Checkpoint, name: str, slots: Sequence[Slot], stored: Mapping[Place, Slot], said: ModelSpec) -> list[RawTensor]:
    first = slots[0]
    fields = [_field(checkpoint, slot, stored) for slot in slots]
    plain = first.stored.part is None and not first.stored.transposed and first.stored.plus == 0
    if plain and len(slots) == 1 and not _turned(first, checkpoint.spec, said):
        if len(first.names) == 1:
            return fields[0]
        if first.is_stack and len(fields[0]) == len(first.names):  # one expert of those that load separately
            return [fields[0][first.names.index(name)]]
    values = [_reordered(_joined_values(raws, slot), slot, checkpoint.spec, said) for raws, slot in zip(fields, slots, strict=True)]
    whole = _tensor(name, slots, values)
    return [RawTensor(name, first.shape, F32, whole.reshape(-1).view(np.uint8))]


def _field(checkpoint: Checkpoint, slot: Slot, stored: Mapping[Place, Slot]) -> list[RawTensor]:
    """A field's values, in the order of its own shape."""
    own = stored.get(place_of(slot))
    if own is not None:
        raws: list[RawTensor] = load_field(_Raw(), checkpoint.source, own, None)[0]
        return raws
    # A bias that is not there adds nothing, the weight of a norm that is not there multiplies by one.
    value = np.full(slot.field_shape, 0 if slot.field.endswith(".bias") else 1, np.float32)
    return [RawTensor(slot.field, slot.field_shape, F32, value.reshape(-1).view(np.uint8))]


def _joined_values(raws: Sequence[RawTensor], slot: Slot) -> Floats:
    values = [decoded(raw).reshape(-1) for raw in raws]
    return (values[0] if len(values) == 1 else np.concatenate(values)).reshape(slot.field_shape)


def _turned(slot: Slot, spec: ModelSpec, said: ModelSpec) -> bool:
    """Whether a field's rows lie in another order of rotary pairs than a reader of the new tensors takes them to."""
    if slot.layer is None:
        return False
    ours, theirs = spec.layers[slot.layer].attention, said.layers[slot.layer].attention
    if slot.field.rpartition(".")[0] not in (TURNED if ours.latent is None else TURNED_LATENT):
        return False
    return any(rope.interleaved != other.interleaved for rope, other in zip(ours.ropes, theirs.ropes, strict=True))


def _reordered(values: Floats, slot: Slot, spec: ModelSpec, said: ModelSpec) -> Floats:
    """Rows of queries and keys, and of their norms, in the order of the reader's rotary pairs: (i, i + dim/2) or (2i, 2i + 1)."""
    if slot.layer is None or not _turned(slot, spec, said):
        return values
    ours, theirs = spec.layers[slot.layer].attention, said.layers[slot.layer].attention
    for rope, other in zip(ours.ropes, theirs.ropes, strict=True):
        if rope.interleaved == other.interleaved:
            continue
        shared = ours.latent is not None and slot.field.startswith("attention.shared_key")
        width, start = (rope.dim, 0) if shared else (ours.head_dim, rope.start)
        heads = values.reshape(-1, width, values.size // slot.field_shape[0] if values.ndim > 1 else 1).copy()
        turned = heads[:, start : start + rope.dim]
        order = np.arange(rope.dim).reshape(2, -1).T.reshape(-1)  # of halves by pairs: 0, d/2, 1, d/2 + 1 ...
        turned[:] = turned[:, order if other.interleaved else np.argsort(order)]
        values = heads.reshape(values.shape)
    return values


def _tensor(name: str, slots: Sequence[Slot], values: Sequence[Floats]) -> Floats:
    """The tensor that holds these fields, as their table stores them."""
    first = slots[0]
    own = [_of_name(field, slot, name) for slot, field in zip(slots, values, strict=True)]
    if first.stored.part is not None:
        whole = _joined(slots, own)
    else:
        assert len(own) == 1, f"{name} holds {', '.join(slot.field for slot in slots)}"
        whole = own[0]
    if first.stored.plus:
        whole = whole - np.float32(first.stored.plus)
    if first.stored.transposed:
        if first.stored.shape is not None:  # for each head a matrix, transposed
            *lead, rows, columns = first.stored.shape
            whole = whole.reshape(*lead, columns, rows)
        whole = whole.swapaxes(-1, -2)
    return np.ascontiguousarray(whole, np.float32).reshape(first.shape)


def _of_name(field: Floats, slot: Slot, name: str) -> Floats:
    """What of a field one of its several tensors holds: an expert, or a head's rows."""
    if len(slot.names) == 1:
        return field
    index = slot.names.index(name)
    return field[index] if slot.is_stack else np.split(field, len(slot.names))[index]


def _joined(slots: Sequence[Slot], values: Sequence[Floats]) -> Floats:
    """Rows of several fields where their parts of the tensor lie; of every matrix, where they are stacks."""
    part = slots[0].stored.part
    assert part is not None
    axis = 1 if slots[0].is_stack and len(slots[0].names) == 1 else 0
    lead, rest = values[0].shape[:axis], values[0].shape[axis + 1 :]
    whole = np.full((*lead, part.groups, part.rows, *rest), np.nan, np.float32)
    for slot, field in zip(slots, values, strict=True):
        part = slot.stored.part
        assert part is not None
        rows = whole[(slice(None),) * (axis + 1) + (slice(part.start, part.stop, part.step),)]
        rows[...] = field.reshape(rows.shape)
    assert not np.isnan(whole).any(), f"parts of {slots[0].names[0]} that no field fills"
    return whole.reshape(*lead, -1, *rest)
