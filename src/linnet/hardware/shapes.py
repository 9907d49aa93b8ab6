"""Models that are named by their size alone: "llm:7b" is a decoder of Llama's kind with seven billion parameters."""

from __future__ import annotations

import re
from typing import NamedTuple

from linnet.arch.config import Config
from linnet.errors import InvalidRequestError
from linnet.load.checkpoint import Checkpoint
from linnet.load.random_weights import random_of_config

_NAME = re.compile(r"llm:([0-9]{1,4}(?:\.[0-9]{1,3})?)([mb])", re.IGNORECASE)
_SMALLEST, _LARGEST = 3e8, 1e12


class Shape(NamedTuple):
    """Of a published model; heads are 128 wide, or 64 in the small ones."""

    parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool


# Qwen2.5 (0.5B, 7B, 14B, 32B) and Llama 3 (1B, 3B, 8B, 70B, 405B), as their config.json say.
_SHAPES = (
    Shape(0.494e9, 24, 896, 14, 2, 4864, 151936, True),
    Shape(1.236e9, 16, 2048, 32, 8, 8192, 128256, True),
    Shape(3.213e9, 28, 3072, 24, 8, 8192, 128256, True),
    Shape(7.616e9, 28, 3584, 28, 4, 18944, 152064, False),
    Shape(8.030e9, 32, 4096, 32, 8, 14336, 128256, False),
    Shape(14.77e9, 48, 5120, 40, 8, 13824, 152064, False),
    Shape(32.76e9, 64, 5120, 40, 8, 27648, 152064, False),
    Shape(70.55e9, 80, 8192, 64, 8, 28672, 128256, False),
    Shape(405.9e9, 126, 16384, 128, 8, 53248, 128256, False),
)
_CONTEXT = 32768


def is_size(model: str) -> bool:
    """Whether the name is meant as a size; it may be none that `of_size` takes."""
    return model.lower().startswith("llm:")


def of_size(name: str) -> Checkpoint:
    """A checkpoint without weights, in bf16, for "llm:7b" or "llm:500m": the shape of the published model that is nearest, with as many
    layers as make the size. Raises InvalidRequestError for a size that is none, or is out of range."""
    match = _NAME.fullmatch(name)
    size = float(match[1]) * (1e9 if match[2] in "bB" else 1e6) if match else 0.0
    if not _SMALLEST <= size <= _LARGEST:
        raise InvalidRequestError(f"{name[:100]!r} is no size: say llm: and a number from 300m to 1000b, such as llm:7b or llm:500m")
    shape = min(_SHAPES, key=lambda shape: max(shape.parameters / size, size / shape.parameters))
    width = shape.hidden // shape.heads * shape.kv_heads
    layer = 2 * shape.hidden * (shape.hidden + width) + 3 * shape.hidden * shape.intermediate
    outside = shape.hidden * shape.vocabulary * (1 if shape.tied else 2)
    values = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": max(1, round((size - outside) / layer)),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-5,
    }
    return random_of_config(name, Config(values, name), "bfloat16")
