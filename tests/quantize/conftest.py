"""Small models of every source, and the built-in one, quantized once a type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("load", "agree", "text")]

from tiny_model import TINY, Quantized

import linnet


@pytest.fixture(scope="session")
def tiny_in(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """The built-in model's file of a type, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("tiny"), {}

    def path(type: str) -> Path:
        if type not in made:
            made[type] = folder / f"{type}.gguf"
            linnet.quantize(str(TINY), made[type], type)
        return made[type]

    return path
