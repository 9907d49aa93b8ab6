"""Tensors in any type, by the searches of csrc/quantize: integers and scales that leave the smallest squared error.

Every op set gets its re-encoded weights from these searches, and so do files that are written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linnet import _core
from linnet.errors import InvalidRequestError, ModelFileError
from linnet.tensors import F32, RawTensor, TensorType


def encode(
    values: RawTensor | NDArray[np.float32], type: TensorType, importance: NDArray[np.float32] | None = None, threads: int = 1
) -> NDArray[np.uint8]:
    """Rows of `values` [..., columns] as GGUF stores them in `type`: uint8 [rows, bytes per row], the same for any number of threads.

    values: float32, or a tensor of any type that has kernels. importance: float32 [columns], how much a squared error of each column
    counts (the mean square of what it is multiplied with); without it all count the same. Where `values` has `type` already, its bytes
    are given back.

    Raises ModelFileError, with the row, for a value that is not finite or larger than the type holds; InvalidRequestError for columns
    that are no multiple of the type's block, and for an importance of another length, below zero or not finite.
    """
    raw = values if isinstance(values, RawTensor) else _floats(values)
    columns = raw.shape[-1]
    if columns % type.block:
        raise InvalidRequestError(
            f"{raw.name}: rows of {columns} values are no multiple of {type.name}'s block of {type.block}; take a type with smaller blocks"
        )
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        if importance.shape != (columns,):
            raise InvalidRequestError(f"{raw.name}: importance of shape {list(importance.shape)} for {columns} columns")
        if not (np.isfinite(importance).all() and (importance >= 0).all()):
            raise InvalidRequestError(f"{raw.name}: importance that is below zero or not finite")
    rows = int(np.prod(raw.shape[:-1]))
    try:
        return _core.quantize_rows(np.ascontiguousarray(raw.data), raw.type.gguf_id, type.gguf_id, rows, columns, importance, threads)
    except ValueError as problem:
        raise ModelFileError(f"{raw.name} as {type.name}: {problem}") from None


def encoded(raw: RawTensor, type: TensorType, threads: int = 1) -> RawTensor:
    """The tensor as `type`. Raises as `encode` does."""
    return RawTensor(raw.name, raw.shape, type, encode(raw, type, threads=threads).reshape(-1))


def _floats(values: NDArray[np.float32]) -> RawTensor:
    values = np.ascontiguousarray(values, np.float32)
    return RawTensor("the tensor", values.shape, F32, values.reshape(-1).view(np.uint8))
