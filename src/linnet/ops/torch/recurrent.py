"""Recurrent layers on a device: convolutions and the gated delta rule, over states in float32 whatever the activations are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from linnet.arch.spec import GatedDeltaNet
from linnet.weights import FilterWeights

if TYPE_CHECKING:
    from linnet.ops.torch.matrices import Kernels

CHUNK = 64
"""Rows that pass a state of the delta rule together, as matrices."""


@dataclass(frozen=True)
class Stretch:
    """Rows of a step that pass their states alike: those of one sequence, or one of each of many.

    sources: int64 [sequences], the pages of the states before them, or any page where there is none; begins: bool [sequences], there is
    none. saved: rows, counted from the first of a sequence, after which states are written, and int64 [sequences], to which pages.
    """

    rows: slice | Tensor
    sources: Tensor
    begins: Tensor
    saved: Sequence[tuple[int, Tensor]]

    def states(self, pool: Tensor) -> Tensor:
        """A copy, [sequences, entries], of the states before the rows; pool: [pages, entries]."""
        return torch.where(self.begins[:, None], 0, pool[self.sources])


class States:
    """The states of one layer, float32 [pages, size]."""

    def __init__(self, pages: int, size: int, device: torch.device) -> None:
        self.rows = torch.zeros(pages, size, dtype=torch.float32, device=device)

    def copy(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]


def convolve(
    x: Tensor, weights: FilterWeights, states: States, stretches: Sequence[Stretch], taps: int, start: int, kernels: Kernels | None = None
) -> Tensor:
    """See `Ops.convolve`."""
    weight: Tensor = weights.weight.view(-1, taps)
    entries = slice(start, start + (taps - 1) * x.shape[1])

    def run(stretch: Stretch, x: Tensor) -> Tensor:
        if kernels is not None and len(x) == len(stretch.sources):
            return kernels.convolve_row(x, weight, weights.bias, states, stretch, start)
        return _convolved(x, weight, weights.bias, states.rows[:, entries], stretch)

    return _each(stretches, run, x)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, pool: Tensor, stretch: Stretch) -> Tensor:
    """Of the rows of a stretch; weight: [width, taps], pool: [pages, (taps - 1) * width]."""
    width, taps = weight.shape
    past = stretch.states(pool).view(-1, taps - 1, width)
    inputs = torch.cat([past, x.float().view(len(past), -1, width)], dim=1)
    for row, pages in stretch.saved:
        pool[pages] = inputs[:, row + 1 : row + taps].flatten(1)
    count = inputs.shape[1] - taps + 1
    result = inputs[:, :count] * weight[:, 0]
    for tap in range(1, taps):
        result = result + inputs[:, tap : tap + count] * weight[:, tap]
    return (result if bias is None else result + bias).view(x.shape)


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    strength: Tensor,
    decay: Tensor,
    states: States,
    stretches: Sequence[Stretch],
    mixer: GatedDeltaNet,
    kernels: Kernels | None = None,
) -> Tensor:
    """See `Ops.delta_rule`."""
    rows = _in_chunks if kernels is None else kernels.delta_rule_rows

    def run(stretch: Stretch, v: Tensor, q: Tensor, k: Tensor, rate: Tensor, strength: Tensor) -> Tensor:
        return rows(q, k, v, rate, strength, decay, states, stretch, mixer)

    return _each(stretches, run, v, q, k, rate, strength)


def _in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    strength: Tensor,
    decay: Tensor,
    states: States,
    stretch: Stretch,
    mixer: GatedDeltaNet,
) -> Tensor:
    """The delta rule of the rows of a stretch, a chunk of each sequence at a time."""
    heads, shares = mixer.value_heads, mixer.value_heads // mixer.key_heads
    pool = states.rows[:, -heads * mixer.key_dim * mixer.value_dim :]
    state = stretch.states(pool).view(-1, heads, mixer.key_dim, mixer.value_dim)
    count = len(state)
    logs = -decay * functional.softplus(rate.float())
    query, key, value, log, learn = (
        x.float().view(count, -1, own, x.shape[1] // own).transpose(1, 2)
        for x, own in ((q, mixer.key_heads), (k, mixer.key_heads), (v, heads), (logs, heads), (strength, heads))
    )
    query, key = query.repeat_interleave(shares, 1), key.repeat_interleave(shares, 1)
    answers, first = [], 0
    for row, pages in stretch.saved:
        while first <= row:
            chunk = slice(first, min(first + CHUNK, row + 1))
            answer, state = _chunk(state, *(x[:, :, chunk] for x in (query, key, value, log, learn)))
            answers.append(answer)
            first = chunk.stop
        pool[pages] = state.flatten(1)
    return torch.cat(answers, dim=2).transpose(1, 2).reshape(v.shape)


def _chunk(state: Tensor, query: Tensor, key: Tensor, value: Tensor, log: Tensor, learn: Tensor) -> tuple[Tensor, Tensor]:
    """What some rows give, and the state after them, by products of matrices.

    Row i adds key[i]^T change[i] to the state, where change[i] = b (value[i] - key[i] S), and S is what is left at row i of the state
    before these rows and of what those before i added: equations of triangular form.
    query, key: [sequences, heads, rows, key_dim]; value: [.., value_dim]; log: [.., 1], of g; learn: [.., 1], b.
    """
    rows = key.shape[2]
    kept = log.cumsum(2).exp()  # of the state, until each row
    between = log.expand(-1, -1, -1, rows).tril(-1).cumsum(2).exp().tril()  # [.., i, j], until row i of what row j added
    change = learn * (value - kept * (key @ state))
    if rows > 1:
        change = torch.linalg.solve_triangular(learn * between * (key @ key.mT), change, upper=False, unitriangular=True)
    answer = kept * (query @ state) + (between * (query @ key.mT)) @ change
    return answer, kept[:, :, -1:] * state + (between[:, :, -1, :, None] * key).mT @ change


def _each(stretches: Sequence[Stretch], run: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """What `run` gives for each stretch and its rows of x and the others, [rows, width of x], in the places of the rows and of x's type."""
    if len(stretches) == 1:  # all rows, in order
        return run(stretches[0], x, *others).to(x.dtype)
    out = torch.empty_like(x)
    for stretch in stretches:
        out[stretch.rows] = run(stretch, *(given[stretch.rows] for given in (x, *others))).to(x.dtype)
    return out
