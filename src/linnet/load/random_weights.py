"""Random weights in the shape of a model, for measuring: its sizes and types are the model's, its answers mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import wanted
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.convert import loaded_as
from linnet.load.encode import encode
from linnet.load.field import type_in_memory
from linnet.load.files import read_json
from linnet.load.hub import locate
from linnet.tensors import BF16, F16, F32, RawTensor, TensorType

WEIGHT_STD = 0.02
"""Standard deviation of the weights: what transformers initialises with, so that activations stay finite."""

_POOL_SHAPE = (65, 4096)
"""Values drawn for a type, and then repeated: drawing all of them would take longer than reading a file. Not a power of two, so
that rows differ."""

_DTYPES = {"float32": F32, "float16": F16, "bfloat16": BF16}


class RandomSource:
    """A `Source` of random matrices, of mean 0 and deviation WEIGHT_STD, and of vectors of ones. tensors: shape and type by name.

    Each read makes the tensor anew, in memory of its own, the same every time, about as fast as memory is written.
    """

    def __init__(self, where: str, tensors: Mapping[str, tuple[tuple[int, ...], TensorType]]) -> None:
        self.where = where
        self.files: tuple[Path, ...] = ()
        self.tensors = tensors

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name)[0]

    def type(self, name: str) -> TensorType:
        return self._tensor(name)[1]

    def read(self, name: str) -> RawTensor:
        shape, type = self._tensor(name)
        vector = len(shape) == 1
        data = encode(np.ones(shape, np.float32), type).reshape(-1) if vector else np.resize(_pool(type), type.nbytes(shape))
        return RawTensor(name, shape, type, data)

    def release(self, name: str) -> None:
        """Nothing: the source holds no tensor."""

    def close(self) -> None:
        """Nothing, likewise."""

    def _tensor(self, name: str) -> tuple[tuple[int, ...], TensorType]:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelFileError(f"{self.where}: no tensor {name!r}") from None


def open_random(model: str | Path, target: TensorType | None = None) -> Checkpoint:
    """A checkpoint of a model's shape with random weights; of its files only configuration and headers are read.

    model: what `open_checkpoint` takes; of a folder with a config.json nothing else needs to be there. Matrices that loading with
    `target` would re-encode are in that type already; the others in that of the file, or a config.json's dtype (float32 where it
    has none).
    Raises what `open_checkpoint` does, but for weights that are missing or damaged.
    """
    folder = locate(model)
    if not (folder / "config.json").is_file():
        with_weights = open_checkpoint(model)
        source = with_weights.source
        stored = {name: (source.shape(name), loaded_as(source.type(name))) for name in source.names()}
        with_weights.close()
        return _checkpoint(with_weights, stored, target)
    values = read_json(folder / "config.json")
    return random_of_config(str(model), Config(values, str(folder / "config.json")), _dtype_name(values), target)


def random_of_config(name: str, config: Config, dtype: str, target: TensorType | None = None) -> Checkpoint:
    """The same of a configuration, whose matrices are of `dtype`: float32, float16 or bfloat16."""
    if dtype not in _DTYPES:
        raise UnsupportedModelError(f"{config.where}: dtype is {dtype[:40]!r}; there are {', '.join(_DTYPES)}")
    spec, table = build(config)
    slots = [slot for row, slot in wanted(spec, table, "hf") if not row.optional]
    like = Checkpoint(name, spec, table, RandomSource("", {}), "hf", 0)
    return _checkpoint(like, {name: (slot.shape, _DTYPES[dtype]) for slot in slots for name in slot.names}, target)


def _checkpoint(like: Checkpoint, stored: Mapping[str, tuple[tuple[int, ...], TensorType]], target: TensorType | None) -> Checkpoint:
    tensors = dict(stored)
    for _, slot in wanted(like.spec, like.table, like.naming, stored):
        if slot.is_matrix and not slot.needs_floats and not slot.stored.transposed:
            for name in slot.names:
                if name in stored:
                    tensors[name] = (stored[name][0], type_in_memory(slot, stored[name][1], target))
    source = RandomSource(f"{like.name} (random weights)", tensors)
    nbytes = sum(type.nbytes(shape) for shape, type in tensors.values())
    return Checkpoint(like.name, like.spec, like.table, source, like.naming, nbytes)


def _dtype_name(values: Mapping[str, Any]) -> str:
    return str(values.get("dtype") or values.get("torch_dtype") or "float32")


@lru_cache
def _pool(type: TensorType) -> NDArray[np.uint8]:
    """Some blocks of a type, uint8, whose values have mean 0 and deviation WEIGHT_STD."""
    return encode(np.random.default_rng(0).normal(0.0, WEIGHT_STD, _POOL_SHAPE).astype(np.float32), type).reshape(-1)
