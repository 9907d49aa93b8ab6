from __future__ import annotations

import pytest
from tiny_models import IN_PYTHON, MODELS


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folder of a tiny model by its name, made when first asked for."""
    pytest.importorskip("transformers")
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            (MODELS | IN_PYTHON)[name](made[name])
        return made[name]

    return folder
