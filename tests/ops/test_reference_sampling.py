"""Draws of the reference op set against the distributions that transformers makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference_steps import double, normal
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from linnet.ops.reference import ReferenceOps


def draws(logits: np.ndarray[Any, Any], temperature: float, top_k: int, top_p: float, min_p: float, n: int = 4000) -> Any:
    """Share of each token among draws at evenly spaced `uniform`s."""
    tokens = [ReferenceOps().sample(logits, temperature, top_k, top_p, min_p, (i + 0.5) / n) for i in range(n)]
    return np.bincount(tokens, minlength=len(logits)) / n


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 1.0, 0.0),
        (1.5, 5, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.1),
        (1.3, 12, 0.9, 0.05),
        (1.0, 6, 0.5, 0.0),
    ],
)
def test_draws_follow_the_distribution_that_transformers_makes(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = 2 * normal(np.random.default_rng(5), 40)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    expected = torch.softmax(warpers(torch.LongTensor([[0]]), torch.DoubleTensor(double(logits)[None])), -1)[0].numpy()
    np.testing.assert_allclose(draws(logits, temperature, top_k, top_p, min_p), expected, atol=1 / 4000)


def test_ties_go_to_the_smaller_id() -> None:
    logits = np.array([1.0, 3.0, 3.0, -np.inf, 3.0], np.float32)
    sample = ReferenceOps().sample
    assert sample(logits, 0.0, 0, 1.0, 0.0, 0.9) == 1
    assert sample(logits, 1.0, 1, 1.0, 0.0, 0.99) == 1
    assert [sample(logits, 1e-3, 0, 1.0, 0.0, u) for u in (0.0, 0.34, 0.67)] == [1, 2, 4]
    assert [sample(logits, 1.0, 2, 1.0, 0.0, u) for u in (0.0, 0.49, 0.51, 1 - 2**-53)] == [1, 1, 2, 2]


def test_a_draw_never_leaves_the_candidates() -> None:
    """Extremes of every option and of `uniform` still give the likeliest token, never one of no weight."""
    logits = np.array([-np.inf, 0.0, -np.inf, -1000.0], np.float32)
    for uniform in (0.0, 1 - 2**-53):
        for temperature in (1e-300, 1.0):
            assert ReferenceOps().sample(logits, temperature, 0, 1.0, 0.0, uniform) == 1
        assert ReferenceOps().sample(logits, 1.0, 0, 0.0, 1.0, uniform) == 1
