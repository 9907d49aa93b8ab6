"""The weights of a decoder, assembled: one field for every tensor that `forward.py` reads.

`Any` stands for the op set's own matrix or vector. Optional tensors are None where the family has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Linear:
    """A projection: matrix [out, in] and, where the family has one, bias [out]."""

    matrix: Any
    bias: Any | None = None


@dataclass(frozen=True)
class LayerWeights:
    """The tensors of one decoder layer. `gate` is None for a plain MLP; query and key norms are per head."""

    attention_norm: Any
    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    mlp_norm: Any
    gate: Linear | None
    up: Linear
    down: Linear
    query_norm: Any | None = None
    key_norm: Any | None = None


@dataclass(frozen=True)
class Weights:
    """All of a decoder. `output` is `embedding` itself when the spec ties them."""

    embedding: Any
    layers: tuple[LayerWeights, ...]
    final_norm: Any
    output: Any
