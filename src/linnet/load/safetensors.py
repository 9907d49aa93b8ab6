"""safetensors files, single and sharded, every length checked against the file.

Follows https://github.com/huggingface/safetensors (README, "Format"). Knows no architecture.
"""

from __future__ import annotations

from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.files import MAX_JSON_BYTES, MappedFile, parse_json, read_json
from linnet.load.source import JoinedTensors, MappedTensors, TensorEntry, open_parts
from linnet.tensors import BF16, F16, F32, TensorType

INDEX = "model.safetensors.index.json"
LARGEST = 2**63 - 1

# F32, F16 and BF16 run; tensors of the others are listed and bounded, and whoever would compute with one refuses it by name.
_TYPES = {
    "F32": F32,
    "F16": F16,
    "BF16": BF16,
    **{name: TensorType(name.lower(), -1, 1, 8) for name in ("F64", "I64", "U64", "C64")},
    **{name: TensorType(name.lower(), -1, 1, 4) for name in ("I32", "U32")},
    **{name: TensorType(name.lower(), -1, 1, 2) for name in ("I16", "U16")},
    **{name: TensorType(name.lower(), -1, 1, 1) for name in ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0")},
}


def read_safetensors(path: str | Path) -> MappedTensors:
    """Opens one safetensors file as a `Source`.

    Raises ModelFileError for a file that is not safetensors, is truncated or contradicts itself, and
    UnsupportedModelError for a dtype that is not known here. A tensor's type may be one that `linnet.tensors.TYPES` lacks.
    """
    file = MappedFile(Path(path))
    try:
        header, start = _header(file)
        entries = [_entry(file, name, info, start) for name, info in header.items() if name != "__metadata__"]
        tensors = MappedTensors(file, entries)
        if sum(e.end - e.begin for e in entries) != file.size - start:
            raise ModelFileError(f"{path}: the tensors do not fill the file's {file.size - start} bytes of data; download it again")
        return tensors
    except ModelFileError:
        file.close()
        raise


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    length = int.from_bytes(file.map[:8], "little")
    if file.size < 8 or length > min(file.size - 8, MAX_JSON_BYTES) or file.map[8:9] != b"{":
        raise ModelFileError(f"{file.path}: not a safetensors file, or truncated in its header; download it again")
    return parse_json(file.map[8 : 8 + length], f"{file.path} (header)"), 8 + length


def _entry(file: MappedFile, name: str, info: Any, start: int) -> TensorEntry:
    what = f"{file.path}: tensor {name!r}"
    if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
        raise ModelFileError(f"{what}: dtype, shape and data_offsets were expected")
    if not isinstance(info["dtype"], str) or info["dtype"] not in _TYPES:
        raise UnsupportedModelError(f"{what} has the unknown dtype {str(info['dtype'])[:40]!r}")
    type, shape, offsets = _TYPES[info["dtype"]], _sizes(info["shape"], what), _sizes(info["data_offsets"], what)
    if prod(shape) > LARGEST:
        raise ModelFileError(f"{what} has the impossible shape {list(shape)}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != type.nbytes(shape):
        raise ModelFileError(f"{what} of shape {list(shape)} in {type.name} has the contradictory offsets {list(offsets)}")
    return TensorEntry(name, shape, type, start + offsets[0], start + offsets[1])


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 8 or not all(type(v) is int and 0 <= v <= LARGEST for v in values):
        raise ModelFileError(f"{what} has the impossible shape or offsets {str(values)[:80]}")
    return tuple(values)


def read_sharded_safetensors(index: str | Path) -> JoinedTensors:
    """Opens every shard that `model.safetensors.index.json` names, in its folder.

    Raises ModelFileError for a shard that is not there or that leaves the folder, and where index and shards disagree.
    """
    index = Path(index)
    weight_map = read_weight_map(index)
    files = sorted(set(weight_map.values()))
    shards = JoinedTensors(str(index), open_parts((index.parent / file for file in files), read_safetensors))
    for name, file in weight_map.items():
        home = shards.homes.get(name)
        if home is None or home.file.path != index.parent / file:
            shards.close()
            raise ModelFileError(f"{index}: says that tensor {name!r} is in {file}, but it is not")
    return shards


def read_weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index of shards has it; every file is there, and below the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ModelFileError(f"{index}: weight_map, a table from tensors to files, was expected")
    for file in sorted(set(weight_map.values())):
        _check_shard(index, file)
    return weight_map


def _check_shard(index: Path, file: str) -> None:
    """A shard is named relative to its index and below it (a link elsewhere is the owner's wish: the hub's cache has them)."""
    path = PurePosixPath(file)
    if len(file) > 255 or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file or not path.parts:
        raise ModelFileError(f"{index}: the shard {file[:300]!r} lies outside the model's folder")
    if not (index.parent / file).is_file():
        raise ModelFileError(f"{index}: the shard {file} is not there; download it again")
