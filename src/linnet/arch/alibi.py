"""ALiBi: linear biases in place of positions (Press et al. 2022)."""

from __future__ import annotations


def alibi_slopes(heads: int, steepest: float = 8.0) -> tuple[float, ...]:
    """Each head's slope: 2^(-8i / n) for i from 1 to n, the largest power of two up to `heads`; any further heads take those between:
    2^(-4i / n) for odd i. steepest: what stands in place of the 8."""
    whole = 1 << heads.bit_length() - 1
    slopes = [2.0 ** (-steepest * index / whole) for index in range(1, whole + 1)]
    between = [2.0 ** (-steepest / 2 * index / whole) for index in range(1, 2 * (heads - whole), 2)]
    return (*slopes, *between)
