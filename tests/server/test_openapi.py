"""schemathesis over the OpenAPI document: whatever it thinks up, valid or not, is answered as the document says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from server_process import Server

from linnet.server.app import create_app
from linnet.server.service import Service
from linnet.server.settings import read_settings

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

SCHEMA = schemathesis.openapi.from_dict(create_app(Service(read_settings(["tiny"], {}))).openapi())
OPERATIONS = {operation.label: operation for operation in (result.ok() for result in SCHEMA.get_all_operations())}
TAKES = {label for label, operation in OPERATIONS.items() if operation.body or operation.query}


def check(server: Server, label: str, mode: Any, examples: int) -> None:
    """Left out: that what fits the schema is accepted. Which models and tokens there are, no schema says."""

    @settings(max_examples=examples, deadline=None, derandomize=True, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if isinstance(case.body, dict) and not {"messages", "prompt"}.isdisjoint(case.body):
            case.body.setdefault("max_tokens", 3)  # or a model of random sentences talks for as long as it may
        case.call_and_validate(base_url=server.url, timeout=60, excluded_checks=[positive_data_acceptance])

    run()


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_fits_the_document_is_answered_as_documented(server: Server, label: str) -> None:
    check(server, label, schemathesis.GenerationMode.POSITIVE, examples=10)


@pytest.mark.parametrize("label", sorted(TAKES))
def test_what_does_not_fit_is_refused_as_documented(server: Server, label: str) -> None:
    check(server, label, schemathesis.GenerationMode.NEGATIVE, examples=15)
