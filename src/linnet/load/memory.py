"""A `Source` over arrays that are already in memory. Imports torch for nobody: a torch tensor proves that it is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.tensors import BF16, F16, F32, RawTensor, TensorType

_TYPES = {"float32": F32, "float16": F16, "bfloat16": BF16}


class MemorySource:
    """Tensors of a state dict: NumPy arrays or torch tensors, float32, float16 or bfloat16, on any device.

    Nothing is copied but what is not contiguous, big-endian or on another device. Raises ModelFileError for a name that is not
    text, and UnsupportedModelError for a value that is no such array; both name it.
    """

    files: tuple[Path, ...] = ()

    def __init__(self, tensors: Mapping[str, Any], where: str = "state dict") -> None:
        self.where = where
        if not isinstance(tensors, Mapping):
            raise ModelFileError(f"{where}: a {type(tensors).__name__}; a mapping from names to tensors was expected")
        self._tensors = dict(tensors)
        self._types = {name: self._type_of(name, value) for name, value in self._tensors.items()}

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in self._tensor(name).shape)

    def type(self, name: str) -> TensorType:
        self._tensor(name)
        return self._types[name]

    def read(self, name: str) -> RawTensor:
        return RawTensor(name, self.shape(name), self.type(name), _bytes(self._tensor(name)))

    def release(self, name: str) -> None:
        """Nothing: the memory is the caller's."""

    def close(self) -> None:
        """Lets go of the caller's tensors."""
        self._tensors, self._types = {}, {}

    def _tensor(self, name: str) -> Any:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelFileError(f"{self.where}: no tensor {name!r}") from None

    def _type_of(self, name: Any, value: Any) -> TensorType:
        if not isinstance(name, str):
            raise ModelFileError(f"{self.where}: the name {name!r} is not a string")
        if not _is_torch(value) and not isinstance(value, np.ndarray):
            raise UnsupportedModelError(f"{self.where}: {name!r} is a {type(value).__name__}; a NumPy array or torch tensor was expected")
        if _is_torch(value) and (value.is_meta or value.layout != sys.modules["torch"].strided):
            kind = "a meta tensor without data" if value.is_meta else "sparse"
            raise ModelFileError(f"{self.where}: {name!r} is {kind}; give dense values")
        dtype = str(value.dtype).removeprefix("torch.") if _is_torch(value) else value.dtype.name
        return _TYPES[dtype] if dtype in _TYPES else self._other_type(name, dtype, value)

    def _other_type(self, name: str, dtype: str, value: Any) -> TensorType:
        raise UnsupportedModelError(f"{self.where}: {name!r} is {dtype}; convert it to {', '.join(_TYPES)}")


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _bytes(value: Any) -> NDArray[np.uint8]:
    """The array's bytes, row-major and little-endian, uint8 [nbytes]; a view wherever they lie so already."""
    if _is_torch(value):
        value = value.detach().cpu().contiguous()
        if value.element_size() == 2:
            value = value.view(sys.modules["torch"].int16)  # NumPy has no bfloat16
        value = value.numpy()
    value = np.ascontiguousarray(value)
    if value.dtype.byteorder == ">":
        value = value.astype(value.dtype.newbyteorder("<"))
    flat: NDArray[np.uint8] = value.reshape(-1).view(np.uint8)
    return flat
