"""Mixtures of experts on tensors: which experts, and how much of each."""

from __future__ import annotations

import torch
from torch import Tensor

from linnet.arch.spec import Router


def route(scores: Tensor, router: Router, correction: Tensor | None) -> tuple[Tensor, Tensor]:
    """The experts of each row by descending score, int64 [n, active], and their weights, float32 [n, active] (see `Router`).
    scores: float32 [n, experts]."""
    if router.scoring == "softmax":
        scores = scores.softmax(-1)
    elif router.scoring == "sigmoid":
        scores = scores.sigmoid()
    choice = scores if correction is None else scores + correction
    if router.groups > 1:
        groups = choice.view(len(choice), router.groups, -1).sort(dim=-1).values
        worth = groups[..., -2:].sum(-1) if router.scoring == "sigmoid" else groups[..., -1]
        best = _first(worth, router.active_groups)
        allowed = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, best, True)
        choice = choice.masked_fill(~allowed.repeat_interleave(groups.shape[-1], dim=-1), float("-inf"))
    chosen = _first(choice, router.active)
    weights = scores.gather(1, chosen)
    if router.scoring == "softmax_chosen":
        weights = weights.softmax(-1)
    elif router.normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + (1e-20 if router.scoring == "sigmoid" else 0.0))
    return chosen, weights * router.scale


def _first(x: Tensor, count: int) -> Tensor:
    """Indices of the largest entries of each row, descending; ties go to the smaller index."""
    return x.sort(dim=-1, descending=True, stable=True).indices[:, :count]
