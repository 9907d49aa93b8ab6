"""From a table's rows and a source's tensors to `Weights`; proves first that nothing is missing and nothing left over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol

from linnet.arch.spec import ModelSpec
from linnet.arch.table import Row, Table, dimensions
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.convert import check_decoder, convert, loaded_as
from linnet.load.source import Source
from linnet.tensors import FLOATS, TYPES, RawTensor, TensorType
from linnet.weights import LayerWeights, Linear, Weights

log = logging.getLogger("linnet.load")

Naming = Literal["hf", "gguf"]
MAX_LISTED = 200


class WeightOps(Protocol):
    """What assembling needs of an op set (see `linnet.ops.base.Ops`)."""

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Any: ...

    def vector(self, raw: RawTensor) -> Any: ...

    def owns(self, matrix: Any) -> bool: ...


@dataclass(frozen=True)
class Slot:
    """One tensor to load: where it goes (layer None: outside the layers), its name in the source, the shape it must have."""

    field: str
    layer: int | None
    name: str
    shape: tuple[int, ...]


def assemble(
    ops: WeightOps,
    spec: ModelSpec,
    table: Table,
    source: Source,
    target: TensorType | None = None,
    naming: Naming = "hf",
    strict: bool = True,
) -> Weights:
    """The weights of `spec`, converted by `ops`, whose copies replace the source's pages as they are made.

    Matrices in a type without kernels are converted to one that has them (see `convert.py`), with a warning for each type.
    `target` re-encodes the matrices whose columns its block divides; the others keep their type, with a warning, and
    vectors stay float32. Before any of it, raises one ModelFileError that lists every tensor that is missing, unexpected
    (unless not `strict`) or of the wrong shape, UnsupportedModelError for types that do not run, and MissingDependencyError
    where converting needs a package that is not installed.
    """
    slots = plan(spec, table, source, naming, strict)
    _announce_conversions(source, slots, target)
    outside: dict[str, Any] = {}
    layers: list[dict[str, Any]] = [{} for _ in spec.layers]
    for slot in slots:
        fields = outside if slot.layer is None else layers[slot.layer]
        fields[slot.field] = _load(ops, source, slot, target)
    output = outside["embedding"] if spec.tied else outside["output"]
    return Weights(outside["embedding"], tuple(_layer(fields) for fields in layers), outside["final_norm"], output)


def plan(spec: ModelSpec, table: Table, source: Source, naming: Naming = "hf", strict: bool = True) -> list[Slot]:
    """What to load, in the order of the table; reads no tensor's data. Raises as `assemble` does."""
    slots: list[Slot] = []
    missing: list[str] = []
    left = dict.fromkeys(source.names())
    for row, slot in wanted(spec, table, naming):
        if slot.name in left:
            del left[slot.name]
            slots.append(slot)
        elif not row.optional:
            missing.append(slot.name)
    unexpected = [name for name in left if not any(fnmatchcase(name, pattern) for pattern in table.ignored)]
    misshapen = [
        f"{slot.name} is {list(source.shape(slot.name))}, not {list(slot.shape)}" for slot in slots if source.shape(slot.name) != slot.shape
    ]
    problems = [_listed("missing", missing), _listed("of the wrong shape", misshapen)]
    if strict:
        problems.insert(1, _listed("unexpected", unexpected))
    elif unexpected:
        log.warning("%s: %s", source.where, _listed("ignored", unexpected))
    if any(problems):
        raise ModelFileError(f"{source.where}: not the weights of this {spec.family} model; " + "; ".join(filter(None, problems)))
    _check_types(source, slots)
    return slots


def wanted(spec: ModelSpec, table: Table, naming: Naming) -> Iterator[tuple[Row, Slot]]:
    """Every tensor that a table asks for, and its row, in the order of the table."""
    for row in table.rows:
        name = row.hf if naming == "hf" else row.gguf
        for index, layer in enumerate(spec.layers):
            sizes = dimensions(spec, layer)
            shape = tuple(sizes[symbol] for symbol in row.shape)
            if not row.per_layer:
                yield row, Slot(row.field, None, name, shape)
                break
            yield row, Slot(row.field.removeprefix("layers."), index, name.replace("{layer}", str(index)), shape)


def _check_types(source: Source, slots: Iterable[Slot]) -> None:
    wrong: list[str] = []
    converted: set[TensorType] = set()
    for slot in slots:
        type = source.type(slot.name)
        loaded = loaded_as(type)
        if loaded not in (TYPES.values() if len(slot.shape) > 1 else FLOATS):
            wrong.append(f"{slot.name} ({type.name})")
        elif loaded != type:
            converted.add(type)
    if wrong:
        raise UnsupportedModelError(f"{source.where}: {_listed('stored in a type that this version does not run', wrong)}")
    for type in converted:
        check_decoder(type, source.where)


def _announce_conversions(source: Source, slots: Iterable[Slot], target: TensorType | None) -> None:
    for type, count in Counter(source.type(slot.name) for slot in slots).items():
        loaded = loaded_as(type)
        if loaded != type:
            to = (target or loaded).name
            log.warning("%s: %d tensors are stored as %s, which has no kernels; converted to %s", source.where, count, type.name, to)


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{what}: {', '.join(names[:MAX_LISTED])}{more}"


def _load(ops: WeightOps, source: Source, slot: Slot, target: TensorType | None) -> Any:
    raw = source.read(slot.name)
    if len(slot.shape) == 1:
        return ops.vector(raw)
    loaded = loaded_as(raw.type)
    if loaded != raw.type:
        converted = convert(raw, target or loaded)
        source.release(slot.name)
        return ops.matrix(converted)
    if target is not None and slot.shape[-1] % target.block:
        log.warning(
            "%s stays %s: its rows of %d are not a multiple of %s's %d", raw.name, raw.type.name, slot.shape[-1], target.name, target.block
        )
        target = None
    matrix = ops.matrix(raw, None if target == raw.type else target)
    if ops.owns(matrix):
        source.release(slot.name)
    return matrix


def _layer(fields: dict[str, Any]) -> LayerWeights:
    """Fields by name; "x.matrix" and "x.bias" make the projection x."""
    linears = {
        name.removesuffix(".matrix"): Linear(value, fields.get(name.replace(".matrix", ".bias")))
        for name, value in fields.items()
        if name.endswith(".matrix")
    }
    vectors = {name: value for name, value in fields.items() if "." not in name}
    return LayerWeights(gate=linears.pop("gate", None), **linears, **vectors)
