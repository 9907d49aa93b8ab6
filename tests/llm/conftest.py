from __future__ import annotations

from collections.abc import Iterator

import pytest

from linnet import LLM


@pytest.fixture(scope="module", params=["reference", "native"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with LLM("tiny", ops=request.param, kv_dtype="f32") as model:
        yield model


@pytest.fixture(scope="module")
def native() -> Iterator[LLM]:
    with LLM("tiny") as model:
        yield model
