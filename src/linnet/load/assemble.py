"""From a table's rows and a source's tensors to `Weights`; proves first that nothing is missing and nothing left over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any, Literal

from linnet.arch.spec import ModelSpec
from linnet.arch.table import Row, Stored, Table, dimensions
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.convert import check_decoder, loaded_as
from linnet.load.field import Slot, WeightOps, load_field, sinusoidal_table, slot_of
from linnet.load.source import Source
from linnet.tensors import FLOATS, TYPES, TensorType
from linnet.weights import AttentionWeights, LayerWeights, Linear, MlpWeights, NormWeights, Weights

log = logging.getLogger("linnet.load")

Naming = Literal["hf", "gguf"]
MAX_LISTED = 200


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
    uses = Counter(name for slot in slots for name in slot.names)
    for slot in sorted(slots, key=lambda slot: -1 if slot.layer is None else slot.layer):  # so that what shares a tensor lies together
        fields = outside if slot.layer is None else layers[slot.layer]
        fields[slot.field], reads_source = load_field(ops, source, slot, target)
        for name in slot.names:
            uses[name] -= not reads_source  # never 0 for a tensor of which a part is still read
            if not uses[name]:
                source.release(name)
    if spec.tied:
        outside["output.matrix"] = outside["embedding"]
    positions = spec.embedding.positions
    if positions is not None and positions.kind == "sinusoidal":
        outside["positions"] = ops.matrix(sinusoidal_table(positions.count, spec.hidden))
    outside["layers"] = tuple(_nested(LayerWeights, fields) for fields in layers)
    weights: Weights = _nested(Weights, outside)
    return weights


def plan(spec: ModelSpec, table: Table, source: Source, naming: Naming = "hf", strict: bool = True) -> list[Slot]:
    """What to load, in the order of the table; reads no tensor's data. Raises as `assemble` does."""
    slots: list[Slot] = []
    missing: list[str] = []
    left = dict.fromkeys(source.names())
    used: set[str] = set()
    for row, slot in wanted(spec, table, naming, left):
        absent = [name for name in slot.names if name not in left]
        if not absent:
            slots.append(slot)
            used.update(slot.names)
        elif not row.optional:
            missing += absent
    unexpected = [name for name in left if name not in used and not any(fnmatchcase(name, pattern) for pattern in table.ignored)]
    shapes = {name: slot.shape for slot in slots for name in slot.names}
    misshapen = [
        f"{name} is {list(source.shape(name))}, not {list(shape)}" for name, shape in shapes.items() if source.shape(name) != shape
    ]
    problems = [_listed("missing", list(dict.fromkeys(missing))), _listed("of the wrong shape", misshapen)]
    if strict:
        problems.insert(1, _listed("unexpected", unexpected))
    elif unexpected:
        log.warning("%s: %s", source.where, _listed("ignored", unexpected))
    if any(problems):
        raise ModelFileError(f"{source.where}: not the weights of this {spec.family} model; " + "; ".join(filter(None, problems)))
    _check_types(source, slots)
    return slots


def wanted(spec: ModelSpec, table: Table, naming: Naming, present: Container[str] = ()) -> Iterator[tuple[Row, Slot]]:
    """Every field that a table asks for, and its row, in the order of the table; of several ways to store it, the first whose
    tensors are all `present`, or else the first."""
    for row in table.rows:
        how = row.hf if naming == "hf" else row.gguf
        if how is None:
            continue
        ways = [Stored(way) if isinstance(way, str) else way for way in (how if isinstance(how, tuple) else (how,))]
        for index, layer in enumerate(spec.layers):
            if row.when is not None and not row.when(layer):
                continue
            sizes = dimensions(spec, layer)
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in row.shape)
            field, place = (row.field.removeprefix("layers."), index) if row.per_layer else (row.field, None)
            slots = [slot_of(spec, field, place, stored, shape) for stored in ways]
            yield row, next((slot for slot in slots if all(name in present for name in slot.names)), slots[0])
            if not row.per_layer:
                break


def _check_types(source: Source, slots: Iterable[Slot]) -> None:
    wrong: list[str] = []
    converted: set[TensorType] = set()
    for slot in slots:
        if len({source.type(name) for name in slot.names}) > 1:
            wrong.append(f"{slot.names[0]} (another than those that belong with it)")
        for name in slot.names:
            type = source.type(name)
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
    if not names:
        return ""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{what}: {', '.join(names[:MAX_LISTED])}{more}"


def _nested(kind: Any, fields: Mapping[str, Any]) -> Any:
    """The dataclass `kind` from fields by path: "x.y" is field y of its field x."""
    direct = {name: value for name, value in fields.items() if "." not in name}
    for name in dict.fromkeys(path.partition(".")[0] for path in fields if "." in path):
        inner = {path.partition(".")[2]: value for path, value in fields.items() if path.startswith(name + ".")}
        direct[name] = _nested(_PARTS[name], inner)
    return kind(**direct)


_PARTS: dict[str, Any] = {"attention": AttentionWeights, "mlp": MlpWeights, "experts": MlpWeights}
_PARTS |= {field.name: NormWeights for kind in (AttentionWeights, LayerWeights, Weights) for field in fields(kind) if "norm" in field.name}
_PARTS |= dict.fromkeys("query key value query_down key_value_down shared_key value_gate up down gate router shared_gate".split(), Linear)
_PARTS |= dict.fromkeys("output embedding_projection output_projection smear_gate".split(), Linear)
