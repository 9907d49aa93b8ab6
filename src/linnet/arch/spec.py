"""What a model is: frozen dataclasses, resolved once from a checkpoint's config and typed throughout.

Nothing here computes or reads files. A family (`arch/llama.py` ...) builds a `ModelSpec`; `forward.py` walks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Norm:
    """RMS normalisation: x / sqrt(mean(x^2) + epsilon) * weight (Zhang & Sennrich 2019)."""

    epsilon: float


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (position interpolation, Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware base that grows once a request is longer than the trained context; fixed per request."""

    factor: float


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): interpolates low frequencies, keeps high ones, scales attention.

    `attention_factor` multiplies cosines and sines and is already resolved (mscale included).
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1: wavelengths past a limit are stretched by `factor`, those between are blended."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True)
class FactorScaling:
    """Each frequency divided by its own factor, as GGUF's `rope_freqs.weight` stores them [dim / 2]."""

    factors: tuple[float, ...]


RopeScaling: TypeAlias = LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | FactorScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021) over the first `dim` entries of a head.

    Pairs are (i, i + dim/2), or (2i, 2i + 1) when `interleaved` (GGUF's Llama order).
    `context` is the trained length that dynamic scaling measures against.
    """

    dim: int
    theta: float
    context: int
    interleaved: bool = False
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention; `window` limits how many positions back a token sees (itself included)."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    scale: float
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Mlp:
    """Feed-forward block: down(act(gate(x)) * up(x)) when `gated`, else down(act(up(x)))."""

    width: int
    activation: Activation
    gated: bool = True


@dataclass(frozen=True)
class Layer:
    """One pre-norm decoder layer: x += attention(norm(x)); x += mlp(norm(x))."""

    attention: Attention
    mlp: Mlp
    attention_norm: Norm
    mlp_norm: Norm


@dataclass(frozen=True)
class ModelSpec:
    """A whole decoder. `vocab_size` counts embedding rows (often padded past the tokenizer's entries);
    `context` is the longest sequence the model was made for; `tied` reads the output from the embedding."""

    family: str
    vocab_size: int
    hidden: int
    context: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    tied: bool
