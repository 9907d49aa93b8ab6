"""Any checkpoint as a GGUF file: its fields by one column of its family's table, their tensors by the other.

What llama.cpp's converter has code of its own for in each family follows here from the tables and from the two specs: that of the
checkpoint, and that which the file's own metadata gives. They must be the same model; only rotary pairs may lie in another order,
which the rows of queries and keys then follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import isclose
from pathlib import Path
from typing import Any

import encoders
import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf_metadata import compressed_pages, factor_tensors, metadata_of
from numpy.typing import NDArray

from linnet.arch.gguf_config import gguf_config
from linnet.arch.registry import build
from linnet.arch.rope import inverse_frequencies
from linnet.arch.spec import ModelSpec, Rope
from linnet.errors import LinnetError
from linnet.load.assemble import plan, wanted
from linnet.load.checkpoint import Checkpoint
from linnet.load.dequantize import dequantize
from linnet.load.field import KEPT, Slot, load_field
from linnet.tensors import RawTensor, TensorType

Floats = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]
Key = tuple[int | None, str]
"""A field: its layer (None: outside them) and its path."""


class NotInGgufError(Exception):
    """GGUF's keys cannot say what the model is; the message has the parts of the spec that would be lost."""


@dataclass(frozen=True)
class _Preferred:
    """Names that contain one of these: which of a row's ways to store a field is taken, where the table has several."""

    parts: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(part in name for part in self.parts)


def export(checkpoint: Checkpoint, path: Path, architecture: str, type_name: str = "f32", preferred: tuple[str, ...] = ()) -> Path:
    """Writes the model to `path`, with a vocabulary of its size that means nothing.

    type_name: of matrices whose columns its block divides; the rest is f32. preferred: parts of names; a field that may be stored
    under several is under such a one, or else the first of its table. Raises NotInGgufError.
    """
    spec = checkpoint.spec
    stored = {_key(slot): slot for slot in plan(spec, checkpoint.table, checkpoint.source, checkpoint.naming)}
    tensors: dict[str, list[Slot]] = {}
    for _, slot in wanted(spec, checkpoint.table, "gguf", _Preferred(preferred)):
        for name in slot.names if _key(slot) in stored else ():
            tensors.setdefault(name, []).append(slot)
    metadata, factors = metadata_of(spec, architecture), factor_tensors(spec)
    if "blk.0.attn_k_b.weight" in tensors:
        metadata |= compressed_pages(spec)
    said = _read_back(spec, metadata, architecture, {name: slots[0].shape for name, slots in tensors.items()}, factors)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, f"{architecture}.{key}", value)
    _add_vocabulary(writer, spec.vocab_size)
    for name, values in factors.items():
        writer.add_tensor(name, values)
    for name, slots in tensors.items():
        values = _tensor(name, slots, [_reordered(_read(checkpoint, stored[_key(slot)]), slot, spec, said) for slot in slots])
        type = _type(slots[0], values, type_name)
        writer.add_tensor(name, encoders.encode(values, type), raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Byte-level BPE: the visible ASCII characters, one merge of two of them, and names for the rest."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    writer.add_token_list([*letters, "!!", *(f"<{index}>" for index in range(size))][:size])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _key(slot: Slot) -> Key:
    return slot.layer, slot.field


def _read_back(spec: ModelSpec, metadata: dict[str, Any], architecture: str, shapes: Shapes, factors: dict[str, Floats]) -> ModelSpec:
    """What a file of this metadata and these tensors will be read as. Raises NotInGgufError where that is another model."""
    keys = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in metadata.items()}}
    listed = {name: values.tolist() for name, values in factors.items()}
    try:
        said, table = build(gguf_config(keys, architecture, shapes, listed))
    except LinnetError as error:
        raise NotInGgufError(str(error)) from None
    read = {name for _, slot in wanted(said, table, "gguf", shapes) for name in slot.names}
    lost = [*differences(spec, said, "spec"), *(f"{name} has no place" for name in shapes if name not in read)]
    if lost:
        raise NotInGgufError(f"{architecture}: {'; '.join(lost)}")
    return said


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Where two specs are not the same model, up to rounding in float32 and the order of rotary pairs."""
    if isinstance(ours, Rope) and isinstance(theirs, Rope):
        yield from _rope_differences(ours, theirs, path)
    elif is_dataclass(ours) and type(ours) is type(theirs):
        for field in fields(ours):
            if field.name == "family":  # which table: the tensors tell
                continue
            name = "value_head_dim" if field.name == "value_dim" else field.name
            yield from differences(getattr(ours, name), getattr(theirs, name), f"{path}.{name}")
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif isinstance(ours, float) and isinstance(theirs, float):
        if not isclose(ours, theirs, rel_tol=1e-6):
            yield f"{path} is {ours:g}, not {theirs:g}"
    elif ours != theirs:
        yield f"{path} is {ours}, not {theirs}"


def _rope_differences(ours: Rope, theirs: Rope, path: str) -> Iterator[str]:
    plain = {name: (getattr(ours, name), getattr(theirs, name)) for name in ("dim", "start", "positions")}
    yield from (f"{path}.{name} is {one}, not {other}" for name, (one, other) in plain.items() if one != other)
    for length in (1, 2 * ours.context):
        (frequencies, factor), (said, said_factor) = inverse_frequencies(ours, length), inverse_frequencies(theirs, length)
        same = len(frequencies) == len(said) and np.allclose(frequencies, said, rtol=1e-5, atol=0)
        if not same or not isclose(factor, said_factor, rel_tol=1e-6):
            yield f"{path} turns otherwise in {length} tokens ({ours.scaling}, not {theirs.scaling})"


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


def _read(checkpoint: Checkpoint, slot: Slot) -> Floats:
    """A field's values, of its own shape."""
    raws, _ = load_field(_Raw(), checkpoint.source, slot, None)
    return np.concatenate([dequantize(raw).reshape(-1) for raw in raws]).reshape(slot.field_shape)


def _reordered(values: Floats, slot: Slot, spec: ModelSpec, said: ModelSpec) -> Floats:
    """Rows of queries and keys, and of their norms, in the order of the file's rotary pairs: (i, i + dim/2) or (2i, 2i + 1)."""
    if slot.layer is None or slot.field.rpartition(".")[0] not in QUERIES_AND_KEYS:
        return values
    ours, theirs = spec.layers[slot.layer].attention, said.layers[slot.layer].attention
    for rope, other in zip(ours.ropes, theirs.ropes, strict=True):
        if rope.interleaved == other.interleaved:
            continue
        heads = values.reshape(-1, ours.head_dim, values.size // slot.field_shape[0] if values.ndim > 1 else 1).copy()
        turned = heads[:, rope.start : rope.start + rope.dim]
        order = np.arange(rope.dim).reshape(2, -1).T.reshape(-1)  # of halves by pairs: 0, d/2, 1, d/2 + 1 ...
        turned[:] = turned[:, order if other.interleaved else np.argsort(order)]
        values = heads.reshape(values.shape)
    return values


QUERIES_AND_KEYS = tuple(f"attention.{name}" for name in ("query", "key", "query_norm", "key_norm"))


def _tensor(name: str, slots: Sequence[Slot], values: Sequence[Floats]) -> Floats:
    """The tensor that holds these fields, as their table stores them: the inverse of `linnet.load.field`."""
    first = slots[0]
    own = [field[slot.names.index(name)] if len(slot.names) > 1 else field for slot, field in zip(slots, values, strict=True)]
    if first.stored.part is not None:
        whole = _joined(slots, own)
    else:
        assert len(own) == 1, f"{name} holds {', '.join(slot.field for slot in slots)}"
        whole = own[0]
    whole = whole - np.float32(first.stored.plus)
    if first.stored.transposed:
        if first.stored.shape is not None:  # for each head a matrix, transposed
            *lead, rows, columns = first.stored.shape
            whole = whole.reshape(*lead, columns, rows)
        whole = whole.swapaxes(-1, -2)
    return np.ascontiguousarray(whole, np.float32).reshape(first.shape)


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


def _type(slot: Slot, values: Floats, type_name: str) -> Type:
    type = Type[type_name.upper()]
    fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[type][0] == 0
    return type if slot.is_matrix and slot.field not in KEPT and fits else Type.F32


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    kinds[type(value)](key, value)
