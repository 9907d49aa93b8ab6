"""Lets these tests use the writer of GGUF files in tests/load, and keeps the oracle on one thread, where tiny models are fastest."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "load"))

from models import Draw, save, shared_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Draw], Path]:
    """The folder of a draw's checkpoint in float32, written once."""
    folders: dict[Draw, Path] = {}

    def folder_of(draw: Draw) -> Path:
        if draw not in folders:
            folders[draw] = tmp_path_factory.mktemp(str(draw))
            save(shared_model(draw), folders[draw], draw.family)
        return folders[draw]

    return folder_of
