"""Tensors to float32: every block format that runs, by the decoders of `blocks.py` and `superblocks.py`."""

from __future__ import annotations

import numpy as np

from linnet.errors import UnsupportedModelError
from linnet.load.blocks import BLOCK_DECODERS, Decoder, Floats
from linnet.load.superblocks import SUPER_BLOCK_DECODERS
from linnet.tensors import RawTensor, TensorType

DECODERS: dict[TensorType, Decoder] = BLOCK_DECODERS | SUPER_BLOCK_DECODERS

_CHUNK = 1 << 20
"""Values converted at a time, so that temporaries stay small beside the tensor."""


def dequantize(raw: RawTensor) -> Floats:
    """The tensor's values, float32 of `raw.shape`. Raises UnsupportedModelError for a type that has no decoder."""
    decode = DECODERS.get(raw.type)
    if decode is None:
        raise UnsupportedModelError(f"tensor {raw.name!r} is stored as {raw.type.name}, which this version does not run")
    blocks = raw.data.reshape(-1, raw.type.block_bytes)
    values = np.empty((len(blocks), raw.type.block), np.float32)
    step = _CHUNK // raw.type.block
    with np.errstate(all="ignore"):  # a damaged file may hold infinite scales; they decode to what they say
        for begin in range(0, len(blocks), step):
            values[begin : begin + step] = decode(blocks[begin : begin + step])
    return values.reshape(raw.shape)
