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

VOCABULARY = 101
CONTEXT = 160
"""Positions the models are said to be made for: more than any test here uses, but for the scaled ones."""

TRAINED = 24
"""The original context of the scaled models: shorter than the prompts, so that scaling has something to do."""

SCALINGS: dict[str, Settings] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
    "yarn-own-factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": TRAINED,
        "attention_factor": 0.8,
        "beta_fast": 3.0,
        "beta_slow": 0.2,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
}


@dataclass(frozen=True)
class Family:
    """
    config, model: the classes of transformers that are the oracle (of an equivalent model where it has not the family itself).
    draw: a legal configuration of tiny size, drawn at random: sizes (odd ones too), flags, rotary settings; small enough that a
        model takes well under a second. All sizes but the vocabulary (101) and the context (160) are up to it.
    named: draws that are always tested, by name: each option that matters at least once, windows and contexts shorter than prompts
        of 45 tokens among them. The first is the family at its plainest; each of its matrices has columns that are a multiple of 32.
    checkpoint: (config.json, tensors), as transformers saves them, to what such a checkpoint holds, where that differs: original
        names, packed weights. None: as transformers saves it.
    blocks: settings whose every matrix has columns that are a multiple of 256, for quantized types.
    gguf: general.architecture; None where llama.cpp does not know the family.
    settings: of every model of the family; they go before those of a draw.
    """

    config: Callable[..., Any]
    model: Callable[..., Any]
    draw: Callable[[np.random.Generator], Settings]
    named: dict[str, Settings]
    blocks: Settings
    checkpoint: Callable[[Settings, State], tuple[Settings, State]] | None = None
    gguf: str | None = None
    settings: Settings = field(default_factory=dict)


def scaled(kind: str, theta: float = 1e4) -> Settings:
    """The settings of a rotary scaling. Dynamic scaling measures against the model's context, the others against their own entry."""
    settings: Settings = {"rope_parameters": {"rope_theta": theta, **SCALINGS[kind]}}
    return settings | {"max_position_embeddings": TRAINED} if kind == "dynamic" else settings


def drawn_rope(random: np.random.Generator) -> Settings:
    """Rotary settings of any kind that every family with plain rotary positions takes, or none."""
    kind = str(random.choice(["default", *SCALINGS]))
    theta = float(random.choice([1e4, 5e5]))
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}} if kind == "default" else scaled(kind, theta)


def flip(random: np.random.Generator) -> bool:
    return bool(random.random() < 0.5)
