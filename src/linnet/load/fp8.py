"""FP8 in safetensors, as DeepSeek V3 (2024) publishes it, and Qwen 3 and MiniMax M2 after it.

NAME is F8_E4M3 [out, in]; NAME_scale_inv has a number for each block of rows and columns (128 by 128, those at the edges smaller), by
which its values are multiplied. No kernel computes with them: they are read as BF16, rounded once, and take its memory.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from linnet.arch.config import Config
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.blocks import Floats
from linnet.load.convert import MAX_THREADS
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode
from linnet.load.source import Source
from linnet.tensors import BF16, F32, FLOATS, RawTensor, TensorType

_SCALES = "_scale_inv"
_OTHERS = ("mxfp4",)  # which its family reads
_HARMLESS = ("modules_to_not_convert", "ignored_layers", "dequantize", "scale_fmt")  # types and names of tensors tell, and memory does

Blocks = tuple[int, int]
"""Rows and columns that share a scale."""


def fp8_blocks(config: Config) -> Blocks | None:
    """What `quantization_config` says of FP8; None for weights that are not quantized, or otherwise. Raises UnsupportedModelError for
    weights in a format that does not run."""
    group = config.group("quantization_config")
    if group is None or (method := group.text("quant_method")) in _OTHERS:
        return None
    if method != "fp8":
        instead = "fp8 and mxfp4 run; take a GGUF file, or weights that are not quantized"
        raise UnsupportedModelError(f"{config.where}: {group.name('quant_method')} is {method!r}; {instead}")
    for key, runs in {"fmt": ("e4m3", "float8_e4m3fn"), "activation_scheme": ("dynamic",)}.items():
        if (said := group.text(key, runs[0])) not in runs:
            raise UnsupportedModelError(f"{config.where}: {group.name(key)} is {said!r}; only {runs[0]} runs")
    group.ignore(_HARMLESS)
    sizes = group.items("weight_block_size") or []
    if len(sizes) != 2 or not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise group.error("weight_block_size", "the rows and columns of a block")
    return sizes[0], sizes[1]


def with_fp8_decoded(source: Source, blocks: Blocks | None) -> Source:
    """The source, each such pair one tensor of BF16. Raises ModelFileError, and closes the source, for a pair that does not fit."""
    if blocks is None:
        return source
    names = dict.fromkeys(source.names())
    pairs = {name: name + _SCALES for name in names if source.type(name).name == "f8_e4m3" and name + _SCALES in names}
    for name, scales in pairs.items():
        shape, given = source.shape(name), source.shape(scales)
        expected = tuple(-(-size // block) for size, block in zip(shape, blocks, strict=False))
        if len(shape) != 2 or given != expected or source.type(scales) not in FLOATS:
            kind = source.type(scales).name
            source.close()
            raise ModelFileError(f"{source.where}: {name} {list(shape)} and {scales} {list(given)} ({kind}) do not fit each other")
    return DecodedFp8(source, pairs, blocks)


class DecodedFp8:
    """A `Source` over another, some of whose tensors are pairs: FP8 and their scales, by name."""

    def __init__(self, source: Source, pairs: dict[str, str], blocks: Blocks) -> None:
        self.where, self.files = source.where, source.files
        self.source, self.pairs, self.blocks = source, pairs, blocks
        self.last: RawTensor | None = None
        """What was decoded last: several fields may be read from one tensor."""

    def names(self) -> list[str]:
        scales = set(self.pairs.values())
        return [name for name in self.source.names() if name not in scales]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def type(self, name: str) -> TensorType:
        return BF16 if name in self.pairs else self.source.type(name)

    def read(self, name: str) -> RawTensor:
        if name not in self.pairs:
            return self.source.read(name)
        if self.last is None or self.last.name != name:
            self.last = decoded(self.source.read(name), dequantize(self.source.read(self.pairs[name])), self.blocks)
            self._release_pages(name)  # whoever keeps the values as they are reads none of them any more
        return self.last

    def release(self, name: str) -> None:
        if self.last is not None and self.last.name == name:
            self.last = None
        self._release_pages(name)

    def _release_pages(self, name: str) -> None:
        for part in (name, self.pairs.get(name)):
            if part is not None:
                self.source.release(part)

    def close(self) -> None:
        self.last = None
        self.source.close()


def decoded(raw: RawTensor, scales: Floats, blocks: Blocks) -> RawTensor:
    """FP8 [out, in] times its scales [blocks of rows, blocks of columns], as BF16; the rows of some blocks at a time."""
    rows, columns = raw.shape
    values = raw.data.reshape(rows, columns)
    data = np.empty((rows, 2 * columns), np.uint8)

    def piece(index: int) -> None:
        begin = index * blocks[0]
        part = _E4M3.take(values[begin : begin + blocks[0]])
        part *= np.repeat(scales[index], blocks[1])[:columns]
        data[begin : begin + len(part)] = encode(RawTensor(raw.name, part.shape, F32, part.reshape(-1).view(np.uint8)), BF16)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        list(pool.map(piece, range(len(scales))))
    return RawTensor(raw.name, raw.shape, BF16, data.reshape(-1))


def _e4m3() -> Floats:
    """Every value of E4M3 (Micikevicius et al. 2022): a sign, 4 bits of exponent with a bias of 7, 3 of mantissa, no infinities."""
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    magnitudes = np.where(exponents == 0, mantissas / 8 * 2.0**-6, (1 + mantissas / 8) * 2.0 ** (exponents - 7))
    magnitudes[codes & 127 == 127] = np.nan
    return np.where(codes >= 128, -magnitudes, magnitudes).astype(np.float32)


_E4M3 = _e4m3()
