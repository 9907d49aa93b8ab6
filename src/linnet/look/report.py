"""`inspect_model`: what a model is, from its headers and configuration alone. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any

from linnet.arch.spec import ModelSpec
from linnet.errors import LinnetError
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.field import Slot
from linnet.load.source import Source
from linnet.load.weight_bytes import weight_bytes
from linnet.look.memory import BATCH_SIZES, MemoryNeed, plan_memory
from linnet.look.parameters import Parameters, count_parameters, part_of
from linnet.look.tokenizer_facts import TokenizerFacts, tokenizer_facts
from linnet.look.words import Section, describe, kinds_of_layers
from linnet.model_options import ModelOptions
from linnet.prompts import read_tokenizer


@dataclass(frozen=True)
class TensorFacts:
    """A tensor as its file has it. part: of the model (see `look.parameters.PARTS`); None: it is not needed."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    part: str | None


@dataclass(frozen=True)
class TypeShare:
    """What is stored as one type. bits_per_weight: what its format takes for a number, its share of scales included."""

    type: str
    tensors: int
    values: int
    nbytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class ModelReport:
    """A model from outside.

    files: its weights' files and their bytes. description: the spec in words. types: largest share first. tokenizer: None where it
    has none, or one that cannot be read, as tokenizer_error says. chat_templates: by name, the usual one being "default".
    memory: the weights, and the KV cache by type, context and batch size.
    """

    model: str
    format: str
    spec: ModelSpec
    description: list[Section]
    parameters: Parameters
    files: dict[str, int]
    types: list[TypeShare]
    tensors: list[TensorFacts]
    tokenizer: TokenizerFacts | None
    tokenizer_error: str | None
    chat_templates: Mapping[str, str]
    memory: list[MemoryNeed]

    @property
    def file_bytes(self) -> int:
        return sum(self.files.values())

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors together."""
        return 8 * sum(share.nbytes for share in self.types) / max(1, sum(share.values for share in self.types))

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it; the layers of the spec by kind."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("spec", "description", "chat_templates")}
        described = [{"title": section.title, **section.facts} for section in self.description]
        return {
            **{name: _plain(value) for name, value in found.items()},
            "family": self.spec.family,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "description": described,
            "spec": _spec_record(self.spec),
            "chat_templates": dict(self.chat_templates),
        }


def inspect_model(
    model: str | Path,
    *,
    weights: str = "auto",
    low_memory: bool = False,
    contexts: Sequence[int] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ModelReport:
    """What the files of a model say: the spec, its parameters and tensors, tokenizer, chat templates, and the memory it takes.

    model: as in `LLM`. weights: the type that they would be loaded as. low_memory: whether they would stay in their file, as `LLM` has it:
    the memory is then without them. contexts, batch_sizes: what to plan memory for; contexts
    None: some up to the model's own. Raises as opening an `LLM` does for its files and options, ContextLengthError for a context
    that is too long.
    """
    options = ModelOptions(weights=weights, low_memory=low_memory)
    checkpoint = open_checkpoint(model)
    try:
        spec, source = checkpoint.spec, checkpoint.source
        slots = plan(spec, checkpoint.table, source, checkpoint.naming, checkpoint.strict)
        in_memory = weight_bytes(spec, slots, source, options.target, mapped=low_memory)
        tokenizer, templates, failure = _tokenizer(checkpoint)
        return ModelReport(
            model=checkpoint.name,
            format=_format(checkpoint),
            spec=spec,
            description=describe(spec),
            parameters=count_parameters(spec, slots),
            files={str(file): file.stat().st_size for file in source.files},
            types=_type_shares(source),
            tensors=_tensors(source, slots),
            tokenizer=tokenizer,
            tokenizer_error=failure,
            chat_templates=templates,
            memory=plan_memory(spec, in_memory, contexts, batch_sizes),
        )
    finally:
        checkpoint.close()


def _tokenizer(checkpoint: Checkpoint) -> tuple[TokenizerFacts | None, Mapping[str, str], str | None]:
    """Facts, chat templates, and why there are none: a model may be looked into whose tokenizer cannot be read."""
    try:
        tokenizer = read_tokenizer(checkpoint)
    except LinnetError as error:
        return None, {}, str(error)
    if tokenizer is None:
        return None, {}, None
    return tokenizer_facts(tokenizer, checkpoint.eos_token_ids), tokenizer.chat_templates, None


def _format(checkpoint: Checkpoint) -> str:
    if checkpoint.metadata is not None:
        return "GGUF"
    suffixes = {file.suffix for file in checkpoint.source.files}
    return "safetensors" if suffixes == {".safetensors"} else "PyTorch"


def _tensors(source: Source, slots: Sequence[Slot]) -> list[TensorFacts]:
    parts = {name: part_of(slot.field) for slot in slots for name in slot.names}
    facts = []
    for name in source.names():
        shape, type = source.shape(name), source.type(name)
        facts.append(TensorFacts(name, shape, type.name, type.nbytes(shape), parts.get(name)))
    return facts


def _type_shares(source: Source) -> list[TypeShare]:
    names: dict[str, list[str]] = {}
    for name in source.names():
        names.setdefault(source.type(name).name, []).append(name)
    shares = []
    for type_name, of_type in names.items():
        type, values = source.type(of_type[0]), sum(prod(source.shape(name)) for name in of_type)
        nbytes = sum(type.nbytes(source.shape(name)) for name in of_type)
        shares.append(TypeShare(type_name, len(of_type), values, nbytes, 8 * type.block_bytes / type.block))
    return sorted(shares, key=lambda share: -share.nbytes)


def _spec_record(spec: ModelSpec) -> dict[str, Any]:
    """Layers that are alike once, with their numbers."""
    record: dict[str, Any] = {f.name: _plain(getattr(spec, f.name)) for f in fields(spec) if f.name != "layers"}
    return {**record, "layers": [{"layers": indices, **_plain(layer)} for layer, indices in kinds_of_layers(spec.layers).items()]}


def _plain(value: Any) -> Any:
    """Dataclasses as objects, those of a spec with their class."""
    if is_dataclass(value):
        named = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {"class": type(value).__name__, **named} if type(value).__module__ == ModelSpec.__module__ else named
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
