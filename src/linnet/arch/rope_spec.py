"""Rotary positions of a spec, and the ways in which they are scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


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
    """Each frequency divided by its own factor, as GGUF's `rope_freqs.weight` stores them [dim / 2]. A pair of an infinite factor does
    not turn."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class LongScaling:
    """LongRoPE (Ding et al. 2024; Phi-3): each frequency divided by its own factor, one set within `original_context` tokens and
    another for requests past it, fixed per request; cosines and sines are multiplied by `attention_factor`, already resolved."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_context: int
    attention_factor: float


RopeScaling: TypeAlias = LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling | FactorScaling | LongScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021) over the `dim` entries of a head from `start` on.

    Pairs are (i, i + dim/2), or (2i, 2i + 1) when `interleaved` (GPT-J's order, and GGUF's for Llama).
    `context` is the trained length that dynamic scaling measures against.
    positions: "absolute"; or one of ChatGLM-6B's two: "prompt" stops at the last but one token of the request's prompt, "block"
    counts from there: with p = position and n = prompt tokens, min(p, n - 2) and max(0, p - n + 2).
    """

    dim: int
    theta: float
    context: int
    interleaved: bool = False
    scaling: RopeScaling | None = None
    start: int = 0
    positions: Literal["absolute", "prompt", "block"] = "absolute"
