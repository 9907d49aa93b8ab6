"""Recurrent layers on a device: convolutions and the gated delta rule, over states in float32 whatever the activations are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from linnet.arch.spec import GatedDeltaNet
from linnet.weights import FilterWeights


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


def convolve(x: Tensor, weights: FilterWeights, states: States, stretches: Sequence[Stretch], taps: int, start: int) -> Tensor:
    """See `Ops.convolve`."""
    width = x.shape[1]
    weight: Tensor = weights.weight.view(width, taps)
    pool = states.rows[:, start : start + (taps - 1) * width]

    def run(stretch: Stretch) -> Tensor:
        past = stretch.states(pool).view(-1, taps - 1, width)
        inputs = torch.cat([past, x[stretch.rows].float().view(len(past), -1, width)], dim=1)
        for row, pages in stretch.saved:
            pool[pages] = inputs[:, row + 1 : row + taps].flatten(1)
        count = inputs.shape[1] - taps + 1
        result = inputs[:, :count] * weight[:, 0]
        for tap in range(1, taps):
            result = result + inputs[:, tap : tap + count] * weight[:, tap]
        return result if weights.bias is None else result + weights.bias

    return _each(x, stretches, run)


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
) -> Tensor:
    """See `Ops.delta_rule`."""
    heads, shares = mixer.value_heads, mixer.value_heads // mixer.key_heads
    pool = states.rows[:, -heads * mixer.key_dim * mixer.value_dim :]
    kept = torch.exp(-decay * functional.softplus(rate.float()))  # g, [n, value_heads]

    def run(stretch: Stretch) -> Tensor:
        state = stretch.states(pool).view(-1, heads, mixer.key_dim, mixer.value_dim)
        count = len(state)
        query, key = (x[stretch.rows].float().view(count, -1, mixer.key_heads, mixer.key_dim).repeat_interleave(shares, 2) for x in (q, k))
        value = v[stretch.rows].float().view(count, -1, heads, mixer.value_dim)
        fade, learn = (x[stretch.rows].float().view(count, -1, heads, 1) for x in (kept, strength))
        results = []
        saved = dict(stretch.saved)
        for row in range(value.shape[1]):
            state = state * fade[:, row, :, :, None]
            change = learn[:, row] * (value[:, row] - (key[:, row, :, None] @ state)[:, :, 0])
            state = torch.addcmul(state, key[:, row, :, :, None], change[:, :, None])
            results.append((query[:, row, :, None] @ state).flatten(1))
            if row in saved:
                pool[saved[row]] = state.flatten(1)
        return torch.stack(results, dim=1)

    return _each(v, stretches, run)


def _each(x: Tensor, stretches: Sequence[Stretch], run: Callable[[Stretch], Tensor]) -> Tensor:
    """What `run` gives for each stretch, [sequences, rows, width], in the places of its rows, and of x's type: [n, width]."""
    if len(stretches) == 1:  # all rows, in order
        return run(stretches[0]).flatten(0, 1).to(x.dtype)
    out = torch.empty_like(x)
    for stretch in stretches:
        out[stretch.rows] = run(stretch).flatten(0, 1).to(x.dtype)
    return out
