"""Matrices that are not plain tensors: weights in integers, weights in host memory. What an op multiplies with, `product` understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from linnet.load.dequantize import parts
from linnet.tensors import FLOATS, IQ4_NL, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, RawTensor, TensorType

if TYPE_CHECKING:
    from linnet.arch.spec import Attention, GatedDeltaNet
    from linnet.ops.torch.cache import Store
    from linnet.ops.torch.recurrent import States, Stretch

IN_FOUR_BITS = {Q2_K: 0, Q3_K: -4, Q4_0: -8, Q4_1: 0, Q4_K: 0}
"""Types whose integers are packed in four bits, and the least of them; those of the others take eight."""

WITH_MINIMA = (*IN_FOUR_BITS, Q5_1, Q5_K)

HALVES = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL)
"""Types whose scales are float16 as they are."""

PIECE = 1 << 25
"""Values that are expanded at a time: 128 MB of float32."""


@dataclass(frozen=True)
class Packed:
    """A matrix [out, in], or a stack of them, as integers with a scale, and perhaps a minimum, for each group of a row's columns.

    codes: int8 [..., out, in]; or with `low` bits uint8 [..., out, in / 2], byte j of a row holding column 2j in its low half and 2j + 1 in
    its high one. scales, minima: float16 or float32 [..., out, groups]. A value is scale * code + minimum, computed in float32.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor | None
    low: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-1], self.codes.shape[-1] * (2 if self.low else 1))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.codes, self.scales, self.minima) if x is not None)

    def to(self, device: torch.device, non_blocking: bool = False) -> Packed:
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pinned(self) -> Packed:
        return self._each(lambda x: x.pin_memory())

    def __getitem__(self, rows: int | slice | Tensor) -> Packed:
        """Some rows, or of a stack some matrices."""
        return self._each(lambda x: x[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Packed:
        return Packed(change(self.codes), change(self.scales), None if self.minima is None else change(self.minima), self.low)

    def values(self, dtype: torch.dtype) -> Tensor:
        """The matrix itself."""
        codes = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(-2) if self.low else self.codes
        groups: Tensor = codes.view(*self.scales.shape, -1).float() * self.scales[..., None].float()
        if self.minima is not None:
            groups = groups + self.minima[..., None].float()
        return groups.flatten(-2).to(dtype)


Plain: TypeAlias = "Tensor | Packed"


@dataclass(frozen=True)
class Offloaded:
    """A matrix, or a stack of them, that stays in host memory and is brought to the device each time it is used."""

    held: Plain
    device: torch.device

    def here(self) -> Plain:
        return self.held.to(self.device, non_blocking=True)

    def __getitem__(self, experts: int | Tensor) -> Offloaded:
        return Offloaded(self.held[experts if isinstance(experts, int) else experts.cpu()], self.device)


Matrix: TypeAlias = "Plain | Offloaded"


class Kernels(Protocol):
    """The module `kernels.py`, where Triton is."""

    FEW_ROWS: int

    def packed_product(self, x: Tensor, matrix: Packed) -> Tensor: ...

    def expanded(self, matrix: Packed, dtype: torch.dtype) -> Tensor: ...

    def attend_pages(
        self,
        q: Tensor,
        keys: Store,
        values: Store,
        tables: Tensor,
        positions: Tensor,
        ends: Tensor,
        attention: Attention,
        slopes: Tensor | None,
        sinks: Tensor | None,
    ) -> Tensor: ...

    def convolve_row(self, x: Tensor, weight: Tensor, bias: Tensor | None, states: States, stretch: Stretch, start: int) -> Tensor: ...

    def delta_rule_rows(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rate: Tensor,
        strength: Tensor,
        decay: Tensor,
        states: States,
        stretch: Stretch,
        mixer: GatedDeltaNet,
    ) -> Tensor: ...


def pack(raws: Sequence[RawTensor], dtype: torch.dtype, stacked: bool = False) -> Packed:
    """A matrix of blocks of integers, or several of one type stacked, to be computed with in `dtype`. Scales are float16 where theirs are,
    and where they are no further off so than such activations: it takes less memory."""
    found = [parts(raw) for raw in raws]
    type = raws[0].type

    def joined(arrays: list[Tensor]) -> Tensor:
        return torch.stack(arrays) if stacked else arrays[0]

    scales = joined([torch.from_numpy(s) for s, _, _ in found])
    codes = joined([torch.from_numpy(i) for _, i, _ in found]).flatten(-2)
    minima = None if found[0][2] is None else joined([torch.from_numpy(m) for _, _, m in found if m is not None])
    low = type in IN_FOUR_BITS
    if low:
        least = IN_FOUR_BITS[type]
        pairs = (codes - least).to(torch.uint8).view(*codes.shape[:-1], -1, 2)
        codes = pairs[..., 0] | pairs[..., 1] << 4
        minima = least * scales if minima is None else minima
    fewer = scale_type(type, dtype)
    if fewer == torch.float16 and all(_survives(x, type) for x in (scales, minima) if x is not None):
        scales, minima = scales.half(), None if minima is None else minima.half()
    return Packed(codes, scales, minima, low)


def scale_type(type: TensorType, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float32 and type not in HALVES else torch.float16


def _survives(x: Tensor, type: TensorType) -> bool:
    return torch.allclose(x.half().float(), x, rtol=2**-10, atol=2**-24 if type in HALVES else 0.0, equal_nan=True)


def matrix_bytes(type: TensorType, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """What a matrix of a type takes that is computed with in `dtype`: floats in it, blocks as `pack` makes them."""
    count = prod(shape)
    if type in FLOATS:
        return count * dtype.itemsize
    group = 16 if type in (Q2_K, Q3_K, Q6_K) else 32
    scale_bytes = scale_type(type, dtype).itemsize * (2 if type in WITH_MINIMA else 1)
    return count // (2 if type in IN_FOUR_BITS else 1) + count // group * scale_bytes


def product(x: Tensor, matrix: Matrix, bias: Tensor | None = None, kernels: Kernels | None = None) -> Tensor:
    """x [n, in] @ matrix.T + bias: [n, out]. kernels: what reads packed weights without expanding them, where there are few rows."""
    if isinstance(matrix, Offloaded):
        matrix = matrix.here()
    if isinstance(matrix, Tensor):
        return linear(x, matrix, bias)
    if kernels is not None and len(x) <= kernels.FEW_ROWS:
        out = kernels.packed_product(x, matrix)
        return out if bias is None else out + bias
    rows = max(1, PIECE // x.shape[1])
    expanded = Packed.values if kernels is None else kernels.expanded
    pieces = [linear(x, expanded(matrix[start : start + rows], x.dtype)) for start in range(0, matrix.shape[0], rows)]
    out = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return out if bias is None else out + bias


def rows_of(table: Matrix, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Some rows of a matrix: [n, in]."""
    if isinstance(table, Offloaded):
        return rows_of(table.held, rows.cpu(), dtype).to(table.device)
    return table[rows].values(dtype) if isinstance(table, Packed) else table[rows]
