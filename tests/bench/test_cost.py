"""What mixtures of experts cost: parameters as their publishers count them, and experts that a step does not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linnet.bench.cases import Case, make_cases
from linnet.bench.cost import Cost, model_cost
from linnet.load.random_weights import open_random
from linnet.tensors import Q4_0

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "dtype": "bfloat16",
}
EXPERTS = 32 * 8 * 3 * 4096 * 14336
NORMS = 65 * 4096


@pytest.fixture(scope="module")
def cost(tmp_path_factory: pytest.TempPathFactory) -> Cost:
    folder = tmp_path_factory.mktemp("mixtral")
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    return model_cost(open_random(folder), "f16")


def case_of(cost: Cost, rows: int) -> Case:
    (case,) = make_cases(cost.spec, "f16", [rows], [100], [20])
    return case


def test_parameters_are_those_of_mixtral(cost: Cost) -> None:
    """46.7 billion, of which a token uses 12.9."""
    assert cost.weight_bytes // 2 + NORMS == 46_702_792_704
    embedding = 32000 * 4096
    assert cost.layer_multiply_adds + cost.output_multiply_adds + NORMS + embedding == 12_879_925_248
    assert cost.layer_multiply_adds == 46_702_792_704 - NORMS - 2 * embedding - EXPERTS * 6 // 8


def test_a_step_reads_the_experts_that_somebody_chooses(cost: Cost) -> None:
    assert cost.step_bytes == cost.weight_bytes - 2 * EXPERTS - 2 * 32000 * 4096
    cached = [110 * 32 * 2 * 1024 * 2 * rows for rows in (1, 2, 64)]
    found = [cost.generated_step_bytes(case_of(cost, rows)) - kept - cost.step_bytes for rows, kept in zip((1, 2, 64), cached, strict=True)]
    assert found[0] == pytest.approx(2 * EXPERTS * 2 / 8)
    assert found[1] == pytest.approx(2 * EXPERTS * (1 - (6 / 8) ** 2))
    assert found[2] == pytest.approx(2 * EXPERTS, rel=1e-6)


def test_routers_keep_their_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    cost = model_cost(open_random(tmp_path, Q4_0), "f16", Q4_0)
    routers = 32 * 8 * 4096
    assert cost.weight_bytes == (46_702_792_704 - NORMS - routers) // 32 * 18 + 2 * routers
