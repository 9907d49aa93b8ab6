"""Recurrent layers whose weights stay in host memory: what they learn from a sequence lies on the device as ever."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from family import VOCABULARY
from harness import random_tokens
from test_captured import RECURRENT, one_token_each

from linnet import LLM, SamplingParams
from linnet.engine.page_plan import layer_groups
from linnet.forward import forward
from linnet.load.checkpoint import open_checkpoint
from linnet.ops.torch.ops import HostWeights, TorchOps
from linnet.tensors import Q8_0
from models import Draw


@pytest.mark.parametrize("draw", RECURRENT, ids=str)
def test_every_op_finds_its_weights_on_the_device(draw: Draw, saved: Callable[[Draw], Path]) -> None:
    """On "meta", beside which nothing else may stand in an operation."""
    device, checkpoint = torch.device("meta"), open_checkpoint(saved(draw))
    ops = TorchOps(device, torch.bfloat16)
    weights = checkpoint.assemble(ops, Q8_0, elsewhere=dict.fromkeys(range(3), HostWeights(ops)))
    groups = layer_groups(checkpoint.spec)
    ops.allocate_cache(checkpoint.spec, [4] * len(groups.windows), "f16", groups.of_layer)
    batch = one_token_each(3, pages=2, groups=len(groups.windows))
    logits = ops.compute(checkpoint.spec, partial(forward, ops, checkpoint.spec, weights), batch)
    assert logits.shape == (3, checkpoint.spec.vocab_size)
    assert logits.device == device


@pytest.mark.parametrize("draw", RECURRENT, ids=str)
def test_they_answer_the_same(draw: Draw, saved: Callable[[Draw], Path]) -> None:
    prompts = [random_tokens(length, VOCABULARY) for length in (70, 3, 33)]
    found = []
    for offload in (0, 3):
        with LLM(saved(draw), ops="torch", weights="q8_0", kv_dtype="f32", context=128, offload=offload) as llm:
            answers = llm.generate(prompts, SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
            found.append([completion.token_ids for completion in answers])
    assert found[0] == found[1]
