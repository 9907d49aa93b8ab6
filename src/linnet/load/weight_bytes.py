"""What a model's weights take in memory, before any of them is read."""

from __future__ import annotations

from collections.abc import Iterable

from linnet.arch.spec import ModelSpec
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.load.field import Slot, type_in_memory
from linnet.load.source import Source
from linnet.tensors import F32, TensorType


def weight_bytes(spec: ModelSpec, slots: Iterable[Slot], source: Source, target: TensorType | None, mapped: bool = False) -> int:
    """Bytes of all weights in memory, loaded with `target` (None: as stored). mapped: matrices stay where their file is mapped, but for
    those that no kernel reads as they are stored."""
    positions = spec.embedding.positions
    total = F32.nbytes((positions.count, spec.hidden)) if positions is not None and positions.kind == "sinusoidal" else 0
    for slot in slots:
        stored = source.type(slot.names[0])
        type = type_in_memory(slot, stored, target) if slot.is_matrix else F32
        if mapped and slot.is_matrix and type == stored and not slot.stored.transposed:
            continue
        total += type.nbytes(slot.field_shape)
    return total


def bytes_of(checkpoint: Checkpoint, target: TensorType | None, mapped: bool = False) -> int:
    """The same of a checkpoint."""
    slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
    return weight_bytes(checkpoint.spec, slots, checkpoint.source, target, mapped)
