"""What a test file of a family says: how to make tiny models of it, and what a checkpoint of one looks like.

`tests/agree/families/NAME.py` describes the family of `linnet/arch/NAME.py` in one `FAMILY`. The tests enumerate the registry, so
a family without its file fails, and a new file is all that a new family's tests need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Settings = dict[str, Any]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """
    config, model: the classes of transformers that are the oracle (of an equivalent model where it has not the family itself).
    draw: a legal configuration of tiny size, drawn at random: sizes (odd ones too), flags, rotary settings; small enough that a
        model takes well under a second. All sizes but the vocabulary (101) and the context (160) are up to it.
    named: draws that are always tested, by name: each option that matters at least once, windows and contexts shorter than prompts
        of 45 tokens among them. The first is the family at its plainest.
    checkpoint: (config.json values, state dict) of the oracle to what such a checkpoint holds, where that differs: original names,
        packed weights. None: as transformers saves it.
    blocks: settings whose every matrix has columns that are a multiple of 256, for quantized types.
    gguf: general.architecture; None where llama.cpp does not know the family.
    """

    config: Callable[..., Any]
    model: Callable[..., Any]
    draw: Callable[[np.random.Generator], Settings]
    named: dict[str, Settings]
    blocks: Settings
    checkpoint: Callable[[Settings, State], tuple[Settings, State]] | None = None
    gguf: str | None = None
    settings: Settings = field(default_factory=dict)
    """Of every model of the family."""
