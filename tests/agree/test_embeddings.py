"""Embeddings of every family that transformers has, on every op set: pooled from its last hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family import VOCABULARY
from harness import OP_SETS, random_tokens

from linnet import LLM
from models import FAMILIES, FIRST, Draw, shared_model

KNOWN = [draw for draw in FIRST if FAMILIES[draw.family].model.__module__.startswith("transformers.")]
PROMPTS = [random_tokens(count, VOCABULARY, seed) for seed, count in enumerate((45, 1, 7))]


def last_hidden_state(draw: Draw, tokens: list[int]) -> Any:
    """Float32 array [len(tokens), hidden]."""
    with torch.no_grad():
        return shared_model(draw).base_model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0].float().numpy()


@pytest.mark.parametrize("op_set", OP_SETS)
@pytest.mark.parametrize("draw", KNOWN, ids=str)
def test_pooled_hidden_states(draw: Draw, op_set: str, saved: Callable[[Draw], Path]) -> None:
    states = [last_hidden_state(draw, prompt) for prompt in PROMPTS]
    largest = max(np.abs(state).max() for state in states)
    with LLM(saved(draw), ops=op_set, kv_dtype="f32") as llm:
        for pooling, expected in (("last", [s[-1] for s in states]), ("mean", [s.mean(axis=0) for s in states])):
            found = llm.embed(PROMPTS, pooling=pooling, normalize=False)
            assert found.dtype == np.float32
            assert np.abs(found - np.stack(expected)).max() < 1e-4 * largest
