"""Any model that is open, as GGUF says it: metadata and tensors.

What llama.cpp's converter has code of its own for in each family follows here from the tables and from two specs: that of the
checkpoint, and that which the new metadata gives when it is read. They must be the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linnet.arch.gguf_config import gguf_config
from linnet.arch.gguf_metadata import compressed_pages, factor_tensors, metadata_of
from linnet.arch.registry import build, gguf_architectures
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table
from linnet.errors import LinnetError, UnsupportedModelError
from linnet.load.assemble import plan, wanted
from linnet.load.checkpoint import Checkpoint
from linnet.load.field import Slot
from linnet.load.gguf import GgufFile
from linnet.quantize.gguf_tensors import Floats, Tensor, place_of, rearranged_tensors, stored_tensors
from linnet.quantize.gguf_writer import Encoded
from linnet.quantize.same_model import differences
from linnet.tensors import F32, RawTensor

_OF_THE_FILE = ("general.architecture", "general.alignment", "general.file_type", "general.quantization_version", "split.")
"""Keys that tell of a file rather than of its model: the writer makes its own."""
_NEAR = "activation is gelu, not gelu_tanh"


@dataclass(frozen=True)
class GgufModel:
    """metadata: without what tells of the file. notes: where whoever reads it computes something slightly else, in words."""

    architecture: str
    spec: ModelSpec
    metadata: dict[str, Any]
    tensors: list[Tensor]
    notes: tuple[str, ...] = ()


class _Preferred:
    """Names that contain one of these: which of a row's ways to store a field is taken, where the table has several."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(part in name for part in self.parts)


def gguf_model(checkpoint: Checkpoint, preferred: tuple[str, ...] = (), architecture: str | None = None) -> GgufModel:
    """preferred: parts of names; a field that may be stored under several is under such a one, or else the first of its table.
    architecture: GGUF's name; None: the first that fits. Raises UnsupportedModelError for a model that GGUF cannot say."""
    slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
    if checkpoint.naming == "gguf":
        source = checkpoint.source
        assert isinstance(source, GgufFile)
        metadata = {key: Encoded(source.encoded(key)) for key in source.metadata if not key.startswith(_OF_THE_FILE)}
        return GgufModel(str(source.metadata["general.architecture"]), checkpoint.spec, metadata, stored_tensors(checkpoint, slots))
    names = gguf_architectures(checkpoint.spec.family) if architecture is None else (architecture,)
    if not names:
        raise UnsupportedModelError(
            f"{checkpoint.name}: GGUF, and llama.cpp with it, has no name for the architecture {checkpoint.spec.family!r}"
        )
    refusals = []
    for name in names:
        try:
            return _translated(checkpoint, slots, name, preferred)
        except UnsupportedModelError as error:
            refusals.append(str(error))
    raise UnsupportedModelError(f"{checkpoint.name}: GGUF cannot say what this model is: {'; or '.join(refusals)}")


def _translated(checkpoint: Checkpoint, slots: list[Slot], architecture: str, preferred: tuple[str, ...]) -> GgufModel:
    spec = checkpoint.spec
    stored = {place_of(slot): slot for slot in slots}
    tensors: dict[str, list[Slot]] = {}
    for _, slot in wanted(spec, checkpoint.table, "gguf", _Preferred(preferred)):
        for name in slot.names if place_of(slot) in stored else ():
            tensors.setdefault(name, []).append(slot)
    metadata, factors = metadata_of(spec, architecture), factor_tensors(spec)
    if "blk.0.attn_k_b.weight" in tensors:
        metadata |= compressed_pages(spec)
    metadata = {f"{architecture}.{key}": value for key, value in metadata.items()}
    said, table = _read_back(metadata, architecture, tensors, factors)
    for row, slot in wanted(said, table, "gguf", tensors):  # what the architecture always has and this model does not
        if place_of(slot) not in stored and not row.optional and slot.field.endswith(("bias", "norm.weight")):
            tensors.setdefault(slot.names[0], []).append(slot)
    notes = _compare(spec, said, table, architecture, tensors)
    found = rearranged_tensors(checkpoint, tensors, stored, said)
    return GgufModel(architecture, spec, metadata, [*map(_factors, factors, factors.values()), *found], notes)


def _read_back(
    metadata: Mapping[str, Any], architecture: str, tensors: Mapping[str, list[Slot]], factors: Mapping[str, Floats]
) -> tuple[ModelSpec, Table]:
    """What a file of this metadata and these tensors will be read as."""
    shapes = {name: slots[0].shape for name, slots in tensors.items()}
    listed = {name: values.tolist() for name, values in factors.items()}
    try:
        return build(gguf_config({"general.architecture": architecture, **metadata}, architecture, shapes, listed))
    except LinnetError as error:
        raise UnsupportedModelError(str(error)) from None


def _compare(spec: ModelSpec, said: ModelSpec, table: Table, architecture: str, tensors: Mapping[str, list[Slot]]) -> tuple[str, ...]:
    """Notes on what is all but the same. Raises UnsupportedModelError with what would be lost."""
    read = {name for _, slot in wanted(said, table, "gguf", tensors) for name in slot.names}
    lost = [*differences(spec, said), *(f"{name} has no place" for name in tensors if name not in read)]
    if any(not difference.endswith(_NEAR) for difference in lost):
        raise UnsupportedModelError(f"{architecture}: {'; '.join(lost)}")
    if not lost:
        return ()
    return (f"{architecture} of GGUF has the tanh approximation of GELU, this model the exact one: off by up to 0.0005",)


def _factors(name: str, values: Floats) -> Tensor:
    raw = RawTensor(name, values.shape, F32, values.reshape(-1).view("u1"))
    return Tensor(name, values.shape, F32, (), lambda: [raw], lambda: None)
