"""Rotary positions: frequencies for each scaling, and the angles of a step's rows. Knows no heads and no op set.

The arithmetic is float32 in the order of transformers' ROPE_INIT_FUNCTIONS, because a rounding of a frequency is
multiplied by the position: at position 100,000 a last bit is worth 1e-3 radians.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling

Floats = NDArray[np.float32]

BLOCK = 64
"""Positions whose cosines and sines are computed at once and kept together."""

KEPT_BLOCKS = 512
"""Most blocks kept, over all models of the process: 16 MiB where `dim` is 128."""


@lru_cache(maxsize=1024)
def inverse_frequencies(rope: Rope, length: int) -> tuple[Floats, float]:
    """Radians per position of each pair, float32 [dim / 2], read-only, and the factor of cosines and sines.

    `length` is the request's length in tokens; only dynamic scaling (past `rope.context`) and LongRoPE look at it.
    """
    scaling, attention_factor = rope.scaling, 1.0
    base = _dynamic_base(rope, scaling, length) if isinstance(scaling, DynamicScaling) else rope.theta
    frequencies: Floats = np.reciprocal(_powers(base, rope.dim))
    if isinstance(scaling, LinearScaling):
        frequencies = np.divide(frequencies, np.float32(scaling.factor))
    elif isinstance(scaling, FactorScaling):
        frequencies = np.divide(frequencies, np.array(scaling.factors, np.float32))
    elif isinstance(scaling, Llama3Scaling):
        frequencies = _llama3(frequencies, scaling)
    elif isinstance(scaling, YarnScaling):
        frequencies, attention_factor = _yarn(rope, scaling), scaling.attention_factor
    elif isinstance(scaling, LongScaling):
        factors = scaling.long_factors if length > scaling.original_context else scaling.short_factors
        powers = _powers(rope.theta, rope.dim)
        frequencies, attention_factor = np.reciprocal(np.array(factors, np.float32) * powers), scaling.attention_factor
    frequencies.setflags(write=False)
    return frequencies, attention_factor


def angles(rope: Rope, positions: NDArray[np.int32], lengths: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Cosines and sines, each float32 [n, dim / 2] and C-contiguous; one row may be a read-only view of a cache.

    positions, lengths: int32 [n]; each row's position, and the length that its request's scaling is fixed to.
    An angle is float32(position) * frequency in float32; its cosine is correctly rounded, then times the factor.
    """
    if len(positions) == 1:
        block, row = divmod(int(positions[0]), BLOCK)
        cosines, sines = _block(rope, effective_length(rope, int(lengths[0])), block)
        return cosines[row : row + 1], sines[row : row + 1]
    cosines, sines = np.empty((2, len(positions), rope.dim // 2), np.float32)
    for start, stop in _runs(positions, lengths):
        block, length = int(positions[start]) // BLOCK, int(lengths[start])
        rows = positions[start:stop] - block * BLOCK
        block_cosines, block_sines = _block(rope, effective_length(rope, length), block)
        cosines[start:stop], sines[start:stop] = block_cosines[rows], block_sines[rows]
    return cosines, sines


def _runs(positions: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Ranges of rows that share a block of positions and a length."""
    blocks = positions // BLOCK
    cuts = (np.flatnonzero((blocks[1:] != blocks[:-1]) | (lengths[1:] != lengths[:-1])) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(positions)], strict=True)) if len(positions) else []


@lru_cache(maxsize=KEPT_BLOCKS)
def _block(rope: Rope, length: int, index: int) -> tuple[Floats, Floats]:
    """Cosines and sines of positions index * BLOCK up to the next block, each [BLOCK, dim / 2], read-only."""
    frequencies, attention_factor = inverse_frequencies(rope, length)
    positions = np.arange(index * BLOCK, (index + 1) * BLOCK).astype(np.float32)
    radians = (positions[:, None] * frequencies).astype(np.float64)
    cosines, sines = (f(radians).astype(np.float32) * np.float32(attention_factor) for f in (np.cos, np.sin))
    cosines.setflags(write=False)
    sines.setflags(write=False)
    return cosines, sines


def is_length_dependent(rope: Rope) -> bool:
    """Whether frequencies depend on a request's length."""
    return isinstance(rope.scaling, (DynamicScaling, LongScaling))


def effective_length(rope: Rope, length: int) -> int:
    """The one length that stands for all lengths with the same frequencies, so that they share them."""
    scaling = rope.scaling
    if isinstance(scaling, LongScaling):
        return scaling.original_context + 1 if length > scaling.original_context else 0
    return length if isinstance(scaling, DynamicScaling) and length > rope.context else 0


def rotary_positions(rope: Rope, positions: NDArray[np.int32], prompt_lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where each row stands for this rope, int32 [n], given its position and its request's prompt length (see `Rope`)."""
    if rope.positions == "prompt":
        return np.asarray(np.maximum(np.minimum(positions, prompt_lengths - 2), 0), np.int32)
    if rope.positions == "block":
        return np.asarray(np.maximum(positions - prompt_lengths + 2, 0), np.int32)
    return positions


def _powers(base: float, dim: int) -> Floats:
    """base^(2i / dim) for each pair i: float32 arguments, power in float64 (the platform's float32 one may be off)."""
    exponents = np.arange(0, dim, 2).astype(np.float32) / np.float32(dim)
    return np.power(np.float64(np.float32(base)), exponents.astype(np.float64)).astype(np.float32)


def _dynamic_base(rope: Rope, scaling: DynamicScaling, length: int) -> float:
    """NTK-aware base: theta * (factor * length / context - (factor - 1))^(dim / (dim - 2)); theta within the context."""
    if length <= rope.context or rope.dim == 2:  # a single pair turns by one radian a position whatever the base
        return rope.theta
    stretch = np.float32(np.float32(scaling.factor) * np.float32(length)) / np.float32(rope.context)
    stretch = np.float32(stretch - np.float32(scaling.factor - 1))
    power = np.float32(np.float64(stretch) ** np.float64(np.float32(rope.dim / (rope.dim - 2))))
    return float(np.float32(rope.theta) * power)


def _yarn(rope: Rope, scaling: YarnScaling) -> Floats:
    """Blend of kept and divided frequencies along a ramp over the pairs (Peng et al. 2023, "NTK-by-parts")."""

    def pair_turning(rotations: float) -> float:
        """The (fractional) pair that turns `rotations` times over the original context."""
        return rope.dim * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001  # a step where the ramp has no width
    pairs = np.arange(rope.dim // 2).astype(np.float32)
    one = np.float32(1)
    kept = one - np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, one)
    powers = _powers(rope.theta, rope.dim)
    frequencies: Floats = one / (np.float32(scaling.factor) * powers) * (one - kept) + one / powers * kept
    return frequencies


def _llama3(frequencies: Floats, scaling: Llama3Scaling) -> Floats:
    """Llama 3.1: long wavelengths divided by the factor, short ones kept, those between blended."""
    context = np.float32(scaling.original_context)
    low, factor = np.float32(scaling.low_frequency_factor), np.float32(scaling.factor)
    wavelengths = np.float32(2 * math.pi) / frequencies
    longest = np.float32(scaling.original_context / scaling.low_frequency_factor)
    shortest = np.float32(scaling.original_context / scaling.high_frequency_factor)
    smooth = (context / wavelengths - low) / np.float32(scaling.high_frequency_factor - scaling.low_frequency_factor)
    blended = (np.float32(1) - smooth) * frequencies / factor + smooth * frequencies
    return np.where(wavelengths > longest, frequencies / factor, np.where(wavelengths < shortest, frequencies, blended))
