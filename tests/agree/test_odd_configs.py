"""Every key of every family's configuration, set to whatever a file may hold: a spec, or an error of ours; in no time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from family import CONTEXT, VOCABULARY, Settings

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.errors import ModelFileError
from linnet.load.assemble import wanted
from models import FAMILIES, named_draws

NAN, INFINITY = float("nan"), float("inf")
NUMBERS = [0, 1, -1, 2**31 - 1, 2**63, 10**40, 0.0, 1e-300, 1e12, -2.5, NAN, INFINITY]
ODD = [None, *NUMBERS, "", "x", True, False, [], [1], [None], {}, {"a": 1}]
DRAWS = [
    pytest.param(draw, id=str(draw), marks=[pytest.mark.slow] if index else [])
    for family in FAMILIES
    for index, draw in enumerate(named_draws(family))
]


def changed(values: Settings) -> Iterator[Settings]:
    """The configuration with one value changed, also in its groups and lists."""
    for key, value in values.items():
        inner: list[Any] = list(ODD)
        if isinstance(value, dict):
            inner += [{**value, name: odd} for name in value for odd in ODD]
        if isinstance(value, list) and value:
            inner += [[odd, *value[1:]] for odd in ODD] + [value * 2]
        yield from ({**values, key: odd} for odd in inner)


@pytest.mark.parametrize("draw", DRAWS)
def test_any_value_of_any_key_is_a_spec_or_an_error_of_ours(draw: Any) -> None:
    made = FAMILIES[draw.family]
    shared = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    values = made.config(**(shared | made.settings | draw.settings)).to_dict()
    if made.checkpoint:
        values, _ = made.checkpoint(values, draw.model().state_dict())
    specs = 0
    for odd in changed(values):
        try:
            spec, table = build(Config(odd, "config.json"))
        except ModelFileError:
            continue
        specs += 1
        if len(spec.layers) < 10:
            assert all(all(size > 0 for size in slot.shape) for _, slot in wanted(spec, table, "hf"))
    assert specs > 20
