"""What `inspect_model` says of every family: parameters as transformers counts them, and every choice in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from linnet import inspect_model
from linnet.look.parameters import PARTS
from models import NAMED, Draw, shared_model


@pytest.mark.parametrize("draw", NAMED, ids=str)
def test_parameters_are_those_of_transformers(draw: Draw, saved: Callable[[Draw], Path]) -> None:
    report, model = inspect_model(saved(draw)), shared_model(draw)
    parameters = report.parameters
    stored = model.state_dict()
    buffers = sum(buffer.numel() for name, buffer in model.named_buffers() if name in stored)  # a router's corrections
    assert parameters.total == model.num_parameters() + buffers == sum(parameters.parts.values())
    assert set(parameters.parts) <= set(PARTS)
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    assert parameters.parts.get("experts", 0) == experts
    if experts:
        config = model.config
        count = next(getattr(config, key) for key in ("num_experts", "n_routed_experts", "num_local_experts") if hasattr(config, key))
        active = next(getattr(config, key) for key in ("num_experts_per_tok", "top_k_experts") if hasattr(config, key))
        assert parameters.active == parameters.total - experts + experts // count * active
    else:
        assert parameters.active == parameters.total
    assert sum(tensor.nbytes for tensor in report.tensors) == sum(share.nbytes for share in report.types)
