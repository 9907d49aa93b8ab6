"""Engines that speculate, for tests: what guesses cost is given, so that no clock decides what is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
from mock_model import MOCK, NO_WEIGHTS, MockOps, mock_engine
from numpy.typing import NDArray

from linnet.arch import spec
from linnet.engine.draft_model import DraftModel
from linnet.engine.engine import Engine
from linnet.engine.step_costs import StepCosts


class GivenCosts(StepCosts):
    """A step of one row takes a second, and each further one `slope` of it."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def is_known(self, rows: int) -> bool:
        return True

    def seconds(self, rows: int) -> float:
        return 1 + self.slope * (rows - 1)


class GivenDraft(DraftModel):
    """A draft model that takes `cost` seconds for a token."""

    cost = 0.0

    @property
    def seconds(self) -> float:
        return self.cost


class ErringOps(MockOps):
    """The mock's logits, but for a part of all histories, where the likeliest tokens change places with their neighbours."""

    def __init__(self, errs: float, window: int | None) -> None:
        super().__init__((window,))
        self.errs = errs

    def logits(self, x: Any, matrix: Any, bias: Any, output: spec.Output) -> NDArray[np.float32]:
        rows = super().logits(x, matrix, bias, output)
        for row in rows:
            if abs(row[0]) % 1 < self.errs:
                row[:] = np.roll(row, 1)
        return rows


def mock_draft(errs: float = 0.0, cost: float = 0.0, window: int | None = None) -> DraftModel:
    """window: how many of the last tokens its logits see; the model's own, or it never says the same."""
    draft = GivenDraft(ErringOps(errs, window), MOCK, NO_WEIGHTS, "f32")
    draft.cost = cost
    return draft


def speculating_engine(slope: float = 0.0, draft: DraftModel | None = None, **options: Any) -> Engine:
    engine = mock_engine(draft=draft, **options)
    engine.speculator.costs = GivenCosts(slope)
    return engine


def seconds_of(engine: Engine) -> float:
    """What all steps so far took, by the costs that were given."""
    ops = engine.ops
    assert isinstance(ops, MockOps)
    return sum(engine.speculator.costs.seconds(rows) for rows in ops.steps)
