"""How a model's publishers make one vector of a text: sentence-transformers' files, or GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from linnet.errors import InvalidRequestError, ModelFileError, UnsupportedModelError
from linnet.load.checkpoint import Checkpoint
from linnet.load.files import read_json, read_json_list

Pooling: TypeAlias = Literal["last", "mean"]

# llama.cpp's enum llama_pooling_type; 0 is none.
_GGUF_KINDS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
_KINDS: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "last": "last", "lasttoken": "last"}
_STEPS = {"Transformer", "Pooling", "Normalize"}


def resolve_pooling(wanted: str, checkpoint: Checkpoint) -> Pooling:
    """The pooling that is wanted by name; of "auto", the one that the model's files say, or "last": the one row that has seen all.

    Raises InvalidRequestError for another name, UnsupportedModelError where the files say what is not built.
    """
    if wanted == "auto":
        return read_pooling(checkpoint) or "last"
    if wanted not in ("last", "mean"):
        raise InvalidRequestError(f"pooling is {wanted!r}; it must be one of auto, last, mean")
    return _KINDS[wanted]


def read_pooling(checkpoint: Checkpoint) -> Pooling | None:
    """The same of the files alone; None where they say nothing."""
    if checkpoint.metadata is not None:
        return _of_gguf(checkpoint.metadata, checkpoint.name)
    if checkpoint.path is None or not checkpoint.path.is_dir():
        return None
    file = checkpoint.path / _pooling_folder(checkpoint.path) / "config.json"
    return _of_config(read_json(file), file) if file.is_file() else None


def _of_gguf(metadata: Mapping[str, Any], name: str) -> Pooling | None:
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 0)
    number = kind if type(kind) is int else -1
    return None if number == 0 else _known(_GGUF_KINDS.get(number, str(kind)[:40]), f"{name}: pooling_type")


def _pooling_folder(folder: Path) -> str:
    """The folder of the pooling step, of those that modules.json lists one after another."""
    if not (folder / "modules.json").is_file():
        return "1_Pooling"
    found = "1_Pooling"
    for step in read_json_list(folder / "modules.json"):
        kind = str(step.get("type", "")).rpartition(".")[2] if isinstance(step, dict) else ""
        if kind not in _STEPS:
            raise UnsupportedModelError(f"{folder / 'modules.json'}: embeddings need a step {kind[:40]!r}, which this version does not run")
        if kind == "Pooling":
            found = str(step.get("path", ""))
    if found != Path(found).name:
        raise ModelFileError(f"{folder / 'modules.json'}: the path of the pooling step is {found[:40]!r}; a folder beside it was expected")
    return found


def _of_config(config: Mapping[str, Any], file: Path) -> Pooling:
    """Newer files name one mode; older ones have a switch for each."""
    mode = config.get("pooling_mode")
    prefix = "pooling_mode_"
    modes = [mode] if mode is not None else [key[len(prefix) :] for key, on in config.items() if key.startswith(prefix) and on is True]
    if len(modes) != 1:
        raise UnsupportedModelError(f"{file}: poolings {', '.join(map(str, modes)) or 'none'}; this version runs one, last or mean")
    return _known(modes[0], str(file))


def _known(kind: Any, where: str) -> Pooling:
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedModelError(f"{where}: pooling {str(kind)[:40]!r} is not built; say pooling='last' or 'mean' to take that instead")
    return _KINDS[kind]
