"""MXFP4 in safetensors, where a tensor lies in two: NAME_blocks, uint8 [..., groups, 16], and NAME_scales, uint8 [..., groups].

Joined they are blocks as `linnet.tensors.MXFP4` has them: 32 values of a row, first their scale (a power of two, as OCP Microscaling
Formats 1.0 has it), then 16 bytes. A byte holds two values, low half first: in the file such as follow each other, in a block those 16
apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linnet.errors import ModelFileError
from linnet.load.source import Source
from linnet.tensors import MXFP4, RawTensor, TensorType

_BLOCKS, _SCALES = "_blocks", "_scales"
_BYTES = ("u8", "f8_e8m0")
"""How such tensors are typed."""


def with_blocks_joined(source: Source) -> Source:
    """The source, each such pair one MXFP4 tensor under the name of its blocks. Raises ModelFileError for a pair that does not fit."""
    pairs: dict[str, str] = {}
    names = dict.fromkeys(source.names())
    for name in names:
        scales = name.removesuffix(_BLOCKS) + _SCALES
        if name.endswith(_BLOCKS) and scales in names and source.type(name).name == "u8" and source.type(scales).name in _BYTES:
            blocks_shape, scales_shape = source.shape(name), source.shape(scales)
            if blocks_shape != (*scales_shape, 16) or len(scales_shape) < 2:
                source.close()
                raise ModelFileError(f"{source.where}: {name} {list(blocks_shape)} and {scales} {list(scales_shape)} do not fit each other")
            pairs[name] = scales
    return JoinedBlocks(source, pairs) if pairs else source


class JoinedBlocks:
    """A `Source` over another, some of whose tensors are pairs: blocks and their scales, by name."""

    def __init__(self, source: Source, pairs: dict[str, str]) -> None:
        self.where, self.files = source.where, source.files
        self.source, self.pairs = source, pairs
        self.last: RawTensor | None = None
        """What was joined last: gates and ups are read from one tensor."""

    def names(self) -> list[str]:
        scales = set(self.pairs.values())
        return [name for name in self.source.names() if name not in scales]

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.source.shape(name)
        return (*shape[:-2], shape[-2] * MXFP4.block) if name in self.pairs else shape

    def type(self, name: str) -> TensorType:
        return MXFP4 if name in self.pairs else self.source.type(name)

    def read(self, name: str) -> RawTensor:
        if name not in self.pairs:
            return self.source.read(name)
        if self.last is None or self.last.name != name:
            blocks, scales = self.source.read(name).data, self.source.read(self.pairs[name]).data
            self.last = RawTensor(name, self.shape(name), MXFP4, joined(blocks, scales))
        return self.last

    def release(self, name: str) -> None:
        if self.last is not None and self.last.name == name:
            self.last = None
        for part in (name, self.pairs.get(name)):
            if part is not None:
                self.source.release(part)

    def close(self) -> None:
        self.last = None
        self.source.close()


def joined(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blocks of 17 bytes from 16 bytes of values and a scale each; uint8 [17 * groups]."""
    first, second = blocks.reshape(-1, 2, 8).swapaxes(0, 1)  # values 0 to 15 of a block, and 16 to 31
    data = np.empty((len(scales), MXFP4.block_bytes), np.uint8)
    data[:, 0] = scales
    data[:, 1::2] = first & 15 | second << 4
    data[:, 2::2] = first >> 4 | second & 0xF0
    return data.reshape(-1)
