"""`Checkpoint`: an opened model. Its spec, its table of weights, their source, and what else its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from linnet.arch.check import check
from linnet.arch.config import Config
from linnet.arch.gguf_config import FACTOR_TENSORS, gguf_config
from linnet.arch.registry import build, table_of
from linnet.arch.sizes import MAX_HEAD_DIM
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table
from linnet.errors import InvalidRequestError, LinnetError, ModelFileError, UnsupportedModelError
from linnet.load.assemble import Naming, assemble, plan
from linnet.load.convert import loaded_as
from linnet.load.dequantize import dequantize
from linnet.load.end_tokens import END_TEXTS, end_texts
from linnet.load.field import Cut, WeightOps
from linnet.load.files import check_regular, read_json
from linnet.load.fp8 import fp8_blocks, with_fp8_decoded
from linnet.load.gguf import GgufFile, is_later_part, read_gguf
from linnet.load.hub import TORCH_SUFFIXES, locate
from linnet.load.memory import MemorySource
from linnet.load.mxfp4 import with_blocks_joined
from linnet.load.safetensors import INDEX, read_safetensors, read_sharded_safetensors
from linnet.load.source import Source
from linnet.tensors import TensorType
from linnet.weights import Weights

_CONTROL = 3  # tokenizer.ggml.token_type of a control token


@dataclass(frozen=True)
class Checkpoint:
    """What a model's files say. Nothing but headers and configuration has been read.

    name: what messages call the model. path: its folder or file; None in memory.
    metadata: GGUF's, tokenizer included; None elsewhere (the tokenizer's files lie in `path`).
    nbytes: bytes of all tensors that the model needs, in the types that they are loaded as. eos_token_ids: what ends an answer.
    generation: generation_config.json, as published.
    tokenizer: a file that is no part of `path`, or None. encoding: the name of what such models take without one.
    slides: whether the model's own code goes on past the context with the last tokens that it holds.
    """

    name: str
    spec: ModelSpec
    table: Table
    source: Source
    naming: Naming
    nbytes: int = 0
    path: Path | None = None
    metadata: Mapping[str, Any] | None = None
    eos_token_ids: tuple[int, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = True
    tokenizer: Path | None = None
    encoding: str | None = None
    slides: bool = False

    def assemble(
        self,
        ops: WeightOps,
        target: TensorType | None = None,
        cut: Cut | None = None,
        elsewhere: Mapping[int, WeightOps] = MappingProxyType({}),
    ) -> Weights:
        """The weights, converted by `ops`; see `linnet.load.assemble.assemble`."""
        return assemble(ops, self.spec, self.table, self.source, target, self.naming, self.strict, cut, elsewhere)

    def close(self) -> None:
        """Closes the source; weights that still read it keep it mapped."""
        self.source.close()

    @classmethod
    def from_memory(cls, config: Any, state_dict: Mapping[str, Any], strict: bool = True, table: Table | None = None) -> Checkpoint:
        """A model whose weights are in memory, under their Hugging Face names, or those that `table` gives them.

        config: a ModelSpec, the content of a config.json, or a transformers config; with a table, a ModelSpec. Raises
        ModelFileError that lists every missing, unexpected (unless not `strict`) and misshapen tensor.
        """
        eos: tuple[int, ...] = ()
        if isinstance(config, ModelSpec):
            check(config, "spec")
            spec, table = config, table_of(config) if table is None else table
        elif table is not None:
            raise InvalidRequestError(f"a table goes with a ModelSpec, and config is a {type(config).__name__}")
        else:
            values = config.to_dict() if hasattr(config, "to_dict") else config
            if not isinstance(values, Mapping):
                raise ModelFileError(f"config is a {type(config).__name__}; a ModelSpec, a dict or a transformers config was expected")
            spec, table = build(Config(values, "config"))
            eos = _token_ids("config", values.get("eos_token_id"), spec)
        source = MemorySource(state_dict)
        return _checked(cls("state dict", spec, table, source, "hf", eos_token_ids=eos, strict=strict))


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Opens "tiny", a Hugging Face folder, a GGUF file, a plain PyTorch checkpoint, or a hub id that is in the local cache.

    Everything is checked that can be without reading weights: raises ModelFileError for files that are missing, damaged
    or contradict each other (every missing, unexpected and misshapen tensor listed), UnsupportedModelError for models
    that this version does not run.
    """
    path = locate(model)
    if path.is_dir():
        return _open_folder(str(model), path)
    if path.suffix.lower() == ".gguf" or _begins(path, b"GGUF"):
        return _open_gguf(str(model), path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        return _open_torch(str(model), path)
    if path.name.endswith((".safetensors", ".json", ".bin")):
        raise ModelFileError(f"{path}: give the folder that holds this file (config.json and the tokenizer are read from it)")
    raise UnsupportedModelError(f"{path}: not a kind of model file that is read; give a Hugging Face folder, a .gguf file or a .pt file")


def _begins(path: Path, magic: bytes) -> bool:
    """Whether a file begins so: some tools name GGUF files by their hash."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error


def _open_folder(name: str, folder: Path) -> Checkpoint:
    if not (folder / "config.json").is_file():
        return _open_only_file(name, folder)
    values = read_json(folder / "config.json")
    config = Config(values, str(folder / "config.json"))
    blocks = fp8_blocks(config)
    spec, table = build(config)
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    eos = _token_ids(str(generation_file), generation.get("eos_token_id"), spec)
    eos = eos or _token_ids(str(folder / "config.json"), values.get("eos_token_id"), spec)
    source = with_fp8_decoded(with_blocks_joined(_open_weights(folder)), blocks)
    return _checked(
        Checkpoint(name, spec, table, source, "hf", path=folder, eos_token_ids=eos, generation=generation),
    )


def _open_only_file(name: str, folder: Path) -> Checkpoint:
    """The one model file of a folder without config.json; of nanochat's, the last step."""
    from linnet.load.torch_checkpoint import newest_step  # here and below: what unpickles costs 10 ms, which few models need

    files = sorted(file for file in folder.glob("*.gguf") if not is_later_part(file))
    if not files and (newest := newest_step(folder)) is not None:
        return _open_torch(name, newest)
    files = files or sorted(file for file in folder.iterdir() if file.suffix.lower() in TORCH_SUFFIXES)
    if len(files) == 1:
        return _open_gguf(name, files[0]) if files[0].suffix == ".gguf" else _open_torch(name, files[0])
    several = f"; name one of {', '.join(file.name for file in files)}" if files else ""
    raise ModelFileError(f"{folder}: holds no model (no config.json){several}")


def _open_torch(name: str, path: Path) -> Checkpoint:
    from linnet.load.torch_checkpoint import read_torch_checkpoint

    found = read_torch_checkpoint(path)
    spec, table = build(found.config)
    rest: dict[str, Any] = {"tokenizer": found.tokenizer, "encoding": found.encoding, "slides": found.slides}
    return _checked(Checkpoint(name, spec, table, found.source, "hf", path=path, **rest))


def _open_weights(folder: Path) -> Source:
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if (folder / INDEX).is_file():
        return read_sharded_safetensors(folder / INDEX)
    from linnet.load.torch_file import read_torch_weights

    pickled = read_torch_weights(folder)
    if pickled is None:
        names = f"model.safetensors, {INDEX}, pytorch_model.bin or its index"
        raise ModelFileError(f"{folder}: has a config.json but no weights ({names}); download it again")
    return pickled


def _open_gguf(name: str, path: Path) -> Checkpoint:
    source = read_gguf(path)
    try:
        kind = source.metadata.get("general.type", "model")
        if not isinstance(kind, str) or kind != "model":
            raise UnsupportedModelError(f"{path}: general.type is {str(kind)[:40]!r}: not a model that can be run by itself")
        shapes = {name: source.shape(name) for name in source.names()}
        spec, table = build(gguf_config(source.metadata, str(path), shapes, _rope_factors(source)))
        eos = _gguf_ends(source, spec)
    except ModelFileError:
        source.close()
        raise
    return _checked(Checkpoint(name, spec, table, source, "gguf", path=path, metadata=source.metadata, eos_token_ids=eos))


def _rope_factors(source: GgufFile) -> dict[str, list[float]]:
    """The divisors of the rotary frequencies, [dim / 2], that some files carry as tensors."""
    factors: dict[str, list[float]] = {}
    for name in FACTOR_TENSORS:
        if name in source.homes:
            raw = source.read(name)
            if len(raw.shape) != 1 or raw.shape[0] > MAX_HEAD_DIM // 2:
                raise ModelFileError(f"{source.where}: {name} has the impossible shape {list(raw.shape)}")
            factors[name] = dequantize(raw).tolist()
    return factors


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, once every tensor is known to be there and to fit."""
    source = checkpoint.source
    try:
        slots = plan(checkpoint.spec, checkpoint.table, source, checkpoint.naming, checkpoint.strict)
    except LinnetError:
        checkpoint.close()
        raise
    names = {name for slot in slots for name in slot.names}
    return replace(checkpoint, nbytes=sum(loaded_as(source.type(name)).nbytes(source.shape(name)) for name in names))


def _token_ids(where: str, value: Any, spec: ModelSpec) -> tuple[int, ...]:
    """eos_token_id of a JSON file: null, an id, or a list of ids."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if type(token) is not int or not 0 <= token < spec.vocab_size:
            raise ModelFileError(f"{where}: eos_token_id {str(token)[:40]} is not a token id (0 to {spec.vocab_size - 1})")
    return tuple(dict.fromkeys(ids))


def _gguf_ends(source: GgufFile, spec: ModelSpec) -> tuple[int, ...]:
    """The ids that end an answer: those that the metadata names, and those of tokens whose texts do; "</s>" where it is a control token,
    since to some it is a tag of HTML."""
    metadata = source.metadata
    ids: list[int] = []
    for name in ("eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        ids += _token_ids(f"{source.where}: {key}", metadata.get(key), spec)
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(types, np.ndarray) and len(types) == len(tokens):
        known = {"</s>", *END_TEXTS}
        there: dict[str, list[int]] = {}  # a text can be that of several tokens
        for id, token in enumerate(tokens[: spec.vocab_size]):
            if token in known:
                there.setdefault(token, []).append(id)
        tags = there.pop("</s>", [])
        ids += sorted(id for text in end_texts(there) for id in there[text])
        ids += [id for id in tags if types[id] == _CONTROL]
    return tuple(dict.fromkeys(ids))
