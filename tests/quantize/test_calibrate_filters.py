"""Recurrent layers under observation: the taps of their convolutions reach the core as its own vectors."""

from __future__ import annotations

import numpy as np

from linnet import _core
from linnet.quantize.calibrate import ObservedOps
from linnet.weights import FilterWeights


def test_filters_become_the_cores_vectors() -> None:
    ops, taps, bias = ObservedOps(lambda matrix, x: None, 1), np.ones(12, np.float32), np.ones(4, np.float32)
    bare, biased = (ops._native(FilterWeights(taps, given)) for given in (None, bias))
    assert isinstance(bare, FilterWeights)
    assert isinstance(bare.weight, _core.Vector)
    assert bare.bias is None
    assert isinstance(biased.bias, _core.Vector)
