"""Tensor types that no kernel reads: decoded by the `gguf` package, kept as the nearest type that has kernels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from linnet.errors import MissingDependencyError, UnsupportedModelError
from linnet.load.blocks import Floats
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode
from linnet.tensors import F32, Q8_0, RawTensor, TensorType

_CONVERTED = frozenset("iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s tq1_0 tq2_0 nvfp4".split())

MAX_THREADS = 8
_PIECE = 1 << 18
"""Values that a thread converts at a time: the gguf package's temporaries take some 30 bytes for each."""


def loaded_as(type: TensorType) -> TensorType:
    """The type that a matrix of `type` has once it is loaded: q8_0 where it is converted, whose error (0.2% of a block's
    largest value, root mean square) is far below that of any type it stands in for."""
    return Q8_0 if type.name in _CONVERTED else type


def check_decoder(type: TensorType, where: str) -> None:
    """Proves, before any work, that `convert` can be called for a type that `loaded_as` changes.

    Raises MissingDependencyError without the `gguf` package and UnsupportedModelError where it is too old for the type.
    """
    try:
        _decode(type, np.zeros(type.block_bytes, np.uint8))
    except ImportError:
        raise MissingDependencyError(f'{where}: {type.name} tensors need the gguf package: pip install "linnet[gguf]"') from None
    except (NotImplementedError, ValueError):
        raise UnsupportedModelError(f"{where}: this gguf package is too old for {type.name} tensors: pip install -U gguf") from None


def convert(raw: RawTensor, target: TensorType) -> RawTensor:
    """The tensor re-encoded as `target`, whose block divides its columns; some rows at a time, so that it takes little more memory
    than its result. `check_decoder` comes first. Raises ModelFileError for values that are not finite."""
    columns = raw.shape[-1]
    rows = raw.data.reshape(-1, raw.type.nbytes((columns,)))
    data = np.empty((len(rows), target.nbytes((columns,))), np.uint8)
    step = max(1, _PIECE // columns)

    def piece(begin: int) -> None:
        part = rows[begin : begin + step]
        values = _decode(raw.type, part.reshape(-1)).reshape(len(part), columns)
        data[begin : begin + step] = encode(RawTensor(raw.name, values.shape, F32, values.reshape(-1).view(np.uint8)), target)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        list(pool.map(piece, range(0, len(rows), step)))
    return RawTensor(raw.name, raw.shape, target, data.reshape(-1))


def decoded(raw: RawTensor) -> Floats:
    """The values of a tensor of any type that loads, float32 of its shape."""
    if loaded_as(raw.type) == raw.type:
        return dequantize(raw)
    check_decoder(raw.type, raw.name)
    return _decode(raw.type, raw.data.reshape(-1)).reshape(raw.shape)


def _decode(type: TensorType, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Blocks, uint8 [nbytes], to float32 [values]."""
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):  # a damaged file may hold infinite scales
        values: np.ndarray[tuple[int], np.dtype[np.float32]] = quants.dequantize(data, GGMLQuantizationType(type.gguf_id))
    return values.astype(np.float32, copy=False)
