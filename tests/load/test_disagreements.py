"""Every way in which spec, table and file may disagree: what the one error says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import (
    ATTEND,
    DENSE,
    DENSE_ROWS,
    DENSE_STATE,
    EXPERT_ROWS,
    EXPERTS,
    HIDDEN,
    MIXED,
    WIDTH,
    Arrays,
    Stores,
    arrays,
    attention_arrays,
    expert_state,
    load,
    mlp_arrays,
    spec_of,
)

from linnet.arch.spec import Layer, Positions
from linnet.arch.table import ATTENTION, GATED_MLP, Row, Stored, Table, is_moe, layer_row, standard_table
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import plan
from linnet.load.memory import MemorySource
from linnet.tensors import BF16, F16, Q8_0


def refused(rows: Any, state: Arrays, layer: Layer = DENSE, **extra: Any) -> str:
    spec = spec_of(layer, **extra)
    table = rows if isinstance(rows, Table) else standard_table(spec, rows)
    with pytest.raises(ModelFileError) as caught:
        plan(spec, table, MemorySource(state))
    return str(caught.value)


def test_the_plain_case_is_fine() -> None:
    assert load(spec_of(DENSE), DENSE_ROWS, DENSE_STATE).layers[0].mlp is not None


def test_a_vector_with_two_dimensions_is_of_the_wrong_shape() -> None:
    state = DENSE_STATE | {"model.norm.weight": np.zeros((1, HIDDEN), np.float32)}
    assert "of the wrong shape: model.norm.weight is [1, 32], not [32]" in refused(DENSE_ROWS, state)


def test_a_size_that_a_layer_does_not_have_is_named() -> None:
    message = refused(EXPERT_ROWS, expert_state())
    assert message.startswith(
        "state dict: the table's row of layers.router.matrix has the size 'experts'; a layer of this spec has vocab, "
    )


def test_rows_of_some_layers() -> None:
    rows = [*DENSE_ROWS[:5], GATED_MLP[0], *(replace(row, when=lambda layer: not is_moe(layer)) for row in GATED_MLP[1:])]
    rows += [replace(row, when=is_moe) for row in EXPERT_ROWS[6:]]
    state = expert_state() | attention_arrays(1) | mlp_arrays(1)
    weights = load(spec_of(MIXED, DENSE), rows, state)
    assert weights.layers[0].mlp is None
    assert weights.layers[1].experts is None


def test_a_field_that_no_row_fills_is_named() -> None:
    sinks = replace(DENSE, mixer=replace(ATTEND, sinks=True))
    assert refused(DENSE_ROWS, DENSE_STATE, sinks).endswith("spec and table disagree: no row fills layers.0.attention.sinks")
    learned = {"embedding": replace(spec_of(DENSE).embedding, positions=Positions(64))}
    assert refused(DENSE_ROWS, DENSE_STATE, **learned).endswith("no row fills positions")


def test_a_field_that_the_spec_does_not_read_is_named() -> None:
    rows = [*DENSE_ROWS, layer_row("attention.query_norm.weight", "q_norm", None, "head")]
    state = DENSE_STATE | arrays(**{"model.layers.0.q_norm.weight": (16,)})
    assert "a row fills layers.0.attention.query_norm.weight, which the spec does not read" in refused(rows, state)
    output = Row("output.matrix", "lm_head.weight", None, ("vocab", "hidden"))
    table = standard_table(spec_of(DENSE), DENSE_ROWS)
    state = DENSE_STATE | arrays(**{"lm_head.weight": (20, HIDDEN)})
    assert "a row fills output.matrix, which the spec does not read" in refused(replace(table, rows=(*table.rows, output)), state)


def test_a_field_that_two_rows_fill_is_named() -> None:
    assert "2 rows fill layers.0.mlp.up.matrix" in refused([*DENSE_ROWS, GATED_MLP[2]], DENSE_STATE)


def test_a_field_of_optional_rows_must_be_there_in_one_of_them() -> None:
    other = replace(GATED_MLP[2], hf="model.layers.{layer}.up", optional=True)
    rows = [*ATTENTION, *(row for row in GATED_MLP if row is not GATED_MLP[2]), replace(GATED_MLP[2], optional=True), other]
    load(spec_of(DENSE), rows, DENSE_STATE)
    state = dict(DENSE_STATE)
    state["model.layers.0.up"] = state.pop("model.layers.0.mlp.up_proj.weight")
    load(spec_of(DENSE), rows, state)
    del state["model.layers.0.up"]
    assert refused(rows, state).endswith("missing: model.layers.0.mlp.up_proj.weight or model.layers.0.up")


def test_a_shape_in_the_file_that_holds_another_number_is_named() -> None:
    how = Stored("model.layers.{layer}.mlp.up_proj.weight", shape=(WIDTH, HIDDEN, 2))
    rows = [*ATTENTION, *(row for row in GATED_MLP if row is not GATED_MLP[2]), replace(GATED_MLP[2], hf=how)]
    assert "layers.0.mlp.up.matrix is stored as [64, 32, 2]" in refused(rows, DENSE_STATE)


def test_experts_that_are_missing_are_named_each() -> None:
    state = expert_state(biased=True)
    for name in ("1.up", "3.up", "2.down_bias"):
        del state[f"model.layers.0.experts.{name}"]
    with pytest.raises(ModelFileError) as caught:
        load(spec_of(MIXED), EXPERT_ROWS, state)
    names = ", ".join(f"model.layers.0.experts.{name}" for name in ("1.up", "3.up", "2.down_bias"))
    assert str(caught.value).endswith(f"missing: {names}")


def test_experts_of_two_types_are_refused() -> None:
    state = expert_state()
    source = Stores(state, {"model.layers.0.experts.2.up": F16})
    table = standard_table(spec_of(MIXED), EXPERT_ROWS)
    with pytest.raises(
        UnsupportedModelError, match=r"state dict: .*experts\.0\.up and the other experts \(f16 and f32: they must be alike\)"
    ):
        plan(spec_of(MIXED), table, source)
    everywhere = {f"model.layers.0.experts.{expert}.up": Q8_0 for expert in range(EXPERTS)}
    assert plan(spec_of(MIXED), table, Stores(state, everywhere))
    biases = Stores(expert_state(biased=True), {"model.layers.0.experts.1.down_bias": BF16})
    with pytest.raises(UnsupportedModelError, match=r"down_bias and the other experts \(bf16 and f32"):
        plan(spec_of(MIXED), table, biases)
