"""Tensors to float32: every block format that runs, through the codecs of `blocks.py` and `superblocks.py`."""

from __future__ import annotations

import numpy as np

from linnet.errors import UnsupportedModelError
from linnet.load.blocks import BLOCK_CODECS, Codec, Floats, Parts
from linnet.load.superblocks import SUPER_BLOCK_CODECS
from linnet.tensors import RawTensor, TensorType

CODECS: dict[TensorType, Codec] = BLOCK_CODECS | SUPER_BLOCK_CODECS

_CHUNK = 1 << 20
"""Values converted at a time, so that temporaries stay small beside the tensor."""


def dequantize(raw: RawTensor) -> Floats:
    """The tensor's values, float32 of `raw.shape`. Raises UnsupportedModelError for a type that has no codec."""
    codec = CODECS.get(raw.type)
    if codec is None:
        raise UnsupportedModelError(f"tensor {raw.name!r} is stored as {raw.type.name}, which this version does not run")
    blocks = raw.data.reshape(-1, raw.type.block_bytes)
    values = np.empty((len(blocks), raw.type.block), np.float32)
    step = _CHUNK // raw.type.block
    with np.errstate(all="ignore"):  # a damaged file may hold infinite scales; they decode to what they say
        for begin in range(0, len(blocks), step):
            values[begin : begin + step] = codec.decode(blocks[begin : begin + step])
    return values.reshape(raw.shape)


def parts(raw: RawTensor) -> Parts:
    """What the values of a tensor of blocks are made of (see `blocks.Parts`): integers int8 [*shape[:-1], groups, values of a group],
    scales and minima float32 [*shape[:-1], groups]."""
    split = CODECS[raw.type].parts
    assert split is not None, "a tensor of floats"
    with np.errstate(all="ignore"):
        scales, integers, minima = split(raw.data.reshape(-1, raw.type.block_bytes))
    lead = raw.shape[:-1]
    minima = None if minima is None else minima.reshape(*lead, -1)
    return scales.reshape(*lead, -1), integers.reshape(*lead, -1, integers.shape[-1]), minima
