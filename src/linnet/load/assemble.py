"""From a table's rows and a source's tensors to `Weights`; proves first that nothing is missing and nothing left over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

from linnet.arch.fields import layer_fields, outer_fields
from linnet.arch.spec import Attention, ModelSpec
from linnet.arch.table import Row, Stored, Table, dimensions
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.convert import check_decoder, loaded_as
from linnet.load.field import Cut, Slot, WeightOps, load_field, sinusoidal_table, slot_of, temperature_table
from linnet.load.source import Source
from linnet.tensors import FLOATS, TYPES, TensorType
from linnet.weights import (
    AttentionWeights,
    ConvolutionWeights,
    DeltaNetWeights,
    FilterWeights,
    LayerWeights,
    Linear,
    MlpWeights,
    NormWeights,
    Weights,
)

log = logging.getLogger("linnet.load")

Naming = Literal["hf", "gguf"]
Place = tuple[int | None, str]
"""A field: of which layer (None: outside them), and its path."""

MAX_LISTED = 200


def assemble(
    ops: WeightOps,
    spec: ModelSpec,
    table: Table,
    source: Source,
    target: TensorType | None = None,
    naming: Naming = "hf",
    strict: bool = True,
    cut: Cut | None = None,
    elsewhere: Mapping[int, WeightOps] = MappingProxyType({}),
) -> Weights:
    """The weights of `spec`, converted by `ops`, whose copies replace the source's pages as they are made.

    Matrices in a type without kernels are converted to one that has them (see `convert.py`), with a warning for each type.
    `target` re-encodes the matrices whose columns its block divides; the others keep their type, with a warning, as do those that
    choose or gate (`field.KEPT`), and vectors stay float32. `cut` says what of each tensor is loaded (None: all).
    `elsewhere`: what converts the weights of these layers, in place of `ops`.

    Before any of it, raises one ModelFileError that lists every tensor that is missing, unexpected (unless not `strict`) or of the
    wrong shape, and every field that spec and table disagree about; UnsupportedModelError for types that do not run, and
    MissingDependencyError where converting needs a package that is not installed.
    """
    slots = plan(spec, table, source, naming, strict)
    _announce_conversions(source, slots, target)
    outside: dict[str, Any] = {}
    layers: list[dict[str, Any]] = [{} for _ in spec.layers]
    uses = Counter(name for slot in slots for name in slot.names)
    for slot in sorted(slots, key=lambda slot: -1 if slot.layer is None else slot.layer):  # so that what shares a tensor lies together
        fields = outside if slot.layer is None else layers[slot.layer]
        placed = ops if slot.layer is None else elsewhere.get(slot.layer, ops)
        fields[slot.field], reads_source = load_field(placed, source, slot, target, cut)
        for name in slot.names:
            uses[name] -= not reads_source  # never 0 for a tensor of which a part is still read
            if not uses[name]:
                source.release(name)
    if spec.tied:
        outside["output.matrix"] = outside["embedding"]
    positions = spec.embedding.positions
    if positions is not None and positions.kind == "sinusoidal":
        outside["positions"] = ops.matrix(sinusoidal_table(positions.count, spec.hidden))
    temperatures = {attention.temperature for attention in spec.attentions if attention.temperature is not None}
    tables = {temperature: ops.matrix(temperature_table(spec.context, temperature)) for temperature in temperatures}
    for layer, fields in zip(spec.layers, layers, strict=True):
        if isinstance(layer.mixer, Attention) and layer.mixer.temperature is not None:
            fields["attention.temperatures"] = tables[layer.mixer.temperature]
    outside["layers"] = tuple(_nested(LayerWeights, fields) for fields in layers)
    weights: Weights = _nested(Weights, outside)
    return weights


def plan(spec: ModelSpec, table: Table, source: Source, naming: Naming = "hf", strict: bool = True) -> list[Slot]:
    """What to load, in the order of the table; reads no tensor's data. Raises as `assemble` does."""
    left = dict.fromkeys(source.names())
    slots: list[Slot] = []
    missing: list[str] = []
    absent_fields: dict[Place, list[str]] = {}
    used: set[str] = set()
    try:
        asked = list(wanted(spec, table, naming, left))
    except ModelFileError as error:
        raise ModelFileError(f"{source.where}: {error}") from None
    for row, slot in asked:
        absent = [name for name in slot.names if name not in left]
        used.update(slot.names)
        if not absent:
            slots.append(slot)
            continue
        ways = absent_fields.setdefault((slot.layer, slot.field), [])
        if row.optional and len(absent) == len(slot.names):
            ways.append(slot.names[0])
        else:  # of experts, all have it or none
            missing += absent
    lacking, disagreeing = _compare_fields(spec, slots, absent_fields)
    missing += lacking
    unexpected = [name for name in left if name not in used and not any(fnmatchcase(name, pattern) for pattern in table.ignored)]
    misshapen = [
        f"{name} is {list(source.shape(name))}, not {list(slot.shape)}"
        for slot in slots
        for name in slot.names
        if source.shape(name) != slot.shape
    ]
    problems = [("missing", missing), ("of the wrong shape", misshapen), ("spec and table disagree", disagreeing)]
    if strict:
        problems.insert(1, ("unexpected", unexpected))
    elif unexpected:
        log.warning("%s: %s", source.where, _listed("ignored", unexpected))
    if any(found for _, found in problems):
        said = "; ".join(_listed(what, list(dict.fromkeys(found))) for what, found in problems if found)
        raise ModelFileError(f"{source.where}: not the weights of this {spec.family} model; {said}")
    _check_types(source, slots)
    return slots


def _compare_fields(spec: ModelSpec, slots: Iterable[Slot], absent: Mapping[Place, list[str]]) -> tuple[list[str], list[str]]:
    """Tensors of fields that the spec cannot do without, though their rows are optional (absent: of each such field); and what is
    wrong with spec or table: a field that no row fills, or two do, or that the spec does not read."""
    read: dict[Place, bool] = {(None, field): needed for field, needed in outer_fields(spec).items()}
    for index, layer in enumerate(spec.layers):
        read |= {(index, field): needed for field, needed in layer_fields(layer).items()}
    filled = Counter((slot.layer, slot.field) for slot in slots)
    empty = [place for place, needed in read.items() if needed and place not in filled]
    lacking = [" or ".join(absent[place]) for place in empty if absent.get(place)]
    disagreeing = [f"no row fills {_path(place)}" for place in empty if place not in absent]
    disagreeing += [f"{count} rows fill {_path(place)}" for place, count in filled.items() if count > 1]
    disagreeing += [f"a row fills {_path(place)}, which the spec does not read" for place in filled if place not in read]
    return lacking, disagreeing


def _path(place: Place) -> str:
    layer, field = place
    return field if layer is None else f"layers.{layer}.{field}"


def wanted(spec: ModelSpec, table: Table, naming: Naming, present: Container[str] = ()) -> Iterator[tuple[Row, Slot]]:
    """Every field that a table asks for, and its row, in the order of the table; of several ways to store it, the first whose
    tensors are all `present`, or else the first."""
    sizes = [dimensions(spec, layer) for layer in spec.layers]
    for row in table.rows:
        how = row.hf if naming == "hf" else row.gguf
        if how is None:
            continue
        ways = [Stored(way) if isinstance(way, str) else way for way in (how if isinstance(how, tuple) else (how,))]
        for index, layer in enumerate(spec.layers):
            if row.when is not None and not row.when(layer):
                continue
            shape = _shape(row, sizes[index])
            field, place = (row.field.removeprefix("layers."), index) if row.per_layer else (row.field, None)
            slots = [slot_of(spec, field, place, stored, shape) for stored in ways]
            yield row, next((slot for slot in slots if all(name in present for name in slot.names)), slots[0])
            if not row.per_layer:
                break


def _shape(row: Row, sizes: Mapping[str, int]) -> tuple[int, ...]:
    try:
        return tuple(sizes[size] if isinstance(size, str) else size for size in row.shape)
    except KeyError as unknown:
        known = ", ".join(sizes)
        raise ModelFileError(f"the table's row of {row.field} has the size {unknown}; a layer of this spec has {known}") from None


def _check_types(source: Source, slots: Iterable[Slot]) -> None:
    wrong: list[str] = []
    converted: set[TensorType] = set()
    for slot in slots:
        types = {name: source.type(name) for name in slot.names}
        if len(set(types.values())) > 1:
            names = sorted({type.name for type in types.values()})
            wrong.append(f"{slot.names[0]} and the other experts ({' and '.join(names)}: they must be alike)")
        for name, type in types.items():
            loaded = loaded_as(type)
            if loaded not in (FLOATS if slot.needs_floats else TYPES.values()):
                wrong.append(f"{name} ({type.name})")
            elif loaded != type:
                converted.add(type)
    if wrong:
        raise UnsupportedModelError(f"{source.where}: {_listed('stored in a type that this version does not run', wrong)}")
    for type in converted:
        check_decoder(type, source.where)


def _announce_conversions(source: Source, slots: Iterable[Slot], target: TensorType | None) -> None:
    for type, count in Counter(source.type(name) for name in {name for slot in slots for name in slot.names}).items():
        loaded = loaded_as(type)
        if loaded != type:
            to = (target or loaded).name
            log.warning("%s: %d tensors are stored as %s, which has no kernels; converted to %s", source.where, count, type.name, to)


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{what}: {', '.join(names[:MAX_LISTED])}{more}"


def _nested(kind: Any, fields: Mapping[str, Any]) -> Any:
    """The dataclass `kind` from fields by path: "x.y" is field y of its field x."""
    direct = {name: value for name, value in fields.items() if "." not in name}
    for name in dict.fromkeys(path.partition(".")[0] for path in fields if "." in path):
        inner = {path.partition(".")[2]: value for path, value in fields.items() if path.startswith(name + ".")}
        direct[name] = _nested(_PARTS[name], inner)
    return kind(**direct)


_PARTS: dict[str, Any] = {"attention": AttentionWeights, "delta_net": DeltaNetWeights, "convolution": ConvolutionWeights}
_PARTS |= {"mlp": MlpWeights, "experts": MlpWeights}
_KINDS = (AttentionWeights, DeltaNetWeights, ConvolutionWeights, LayerWeights, Weights)
_PARTS |= {field.name: NormWeights for kind in _KINDS for field in fields(kind) if "norm" in field.name}
_PARTS |= {field.name: FilterWeights for kind in _KINDS for field in fields(kind) if "filter" in field.name}
_PARTS |= dict.fromkeys("query key value query_down key_value_down shared_key value_gate up down gate router shared_gate".split(), Linear)
_PARTS |= dict.fromkeys("rate strength input_gate output_gate per_layer_gate per_layer_projection".split(), Linear)
_PARTS |= dict.fromkeys("output embedding_projection output_projection smear_gate".split(), Linear)
