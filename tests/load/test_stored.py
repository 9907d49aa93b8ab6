"""Fields that a file stores in other ways than one tensor each, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import (
    DENSE,
    DENSE_ROWS,
    DENSE_STATE,
    EXPERT_ROWS,
    EXPERTS,
    HIDDEN,
    MIXED,
    OUTSIDE,
    WIDTH,
    Stores,
    arrays,
    attention_arrays,
    expert_state,
    load,
    mlp_arrays,
    packed,
    packed_rows,
    packed_state,
    spec_of,
)

from linnet.arch.spec import Mlp, Positions
from linnet.arch.table import ATTENTION, GATED_MLP, Part, Row, Stored, standard_table
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import assemble, plan
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode
from linnet.load.field import KEPT, sinusoidal_table
from linnet.load.memory import MemorySource
from linnet.ops.reference import ReferenceOps
from linnet.tensors import BF16, F32, Q4_0, Q8_0, RawTensor, TensorType

# ---- several fields in one tensor


@pytest.mark.parametrize("stored", [F32, BF16, Q8_0, Q4_0], ids=lambda type: type.name)
@pytest.mark.parametrize("order", ["one after another", "by head", "transposed"])
def test_packed_queries_keys_and_values(order: str, stored: TensorType) -> None:
    spec, qkv = spec_of(DENSE), arrays(qkv=(128, HIDDEN))["qkv"]
    if order == "by head":  # for each of 2 KV heads: its two queries, its key, its value
        parts = Part(0, 32, 64, 2), Part(32, 48, 64, 2), Part(48, 64, 64, 2)
        heads = qkv.reshape(2, 64, HIDDEN)
        expected = heads[:, :32].reshape(64, HIDDEN), heads[:, 32:48].reshape(32, HIDDEN), heads[:, 48:].reshape(32, HIDDEN)
    else:
        parts = Part(0, 64, 128), Part(64, 96, 128), Part(96, 128, 128)
        expected = qkv[:64], qkv[64:96], qkv[96:]
    transposed = order == "transposed"
    rows = packed_rows(*(packed(part, transposed=transposed) for part in parts))
    state = packed_state(qkv.T.copy() if transposed else qkv)
    source = Stores(state, {"model.layers.0.qkv.weight": stored})
    layer = assemble(ReferenceOps(), spec, standard_table(spec, rows), source).layers[0].attention
    for linear, values in zip((layer.query, layer.key, layer.value), expected, strict=True):
        if transposed:  # blocks lie along the other axis
            raw = RawTensor("", (HIDDEN, 128), stored, encode(np.ascontiguousarray(qkv.T), stored).reshape(-1))
            start = {64: 0}.get(len(values), 64 if linear is layer.key else 96)
            np.testing.assert_array_equal(linear.matrix, dequantize(raw).T[start : start + len(values)])
        else:
            values = np.ascontiguousarray(values)
            np.testing.assert_array_equal(
                linear.matrix, dequantize(RawTensor("", values.shape, stored, encode(values, stored).reshape(-1)))
            )


def test_every_second_row_and_vectors_of_parts() -> None:
    rows = [*ATTENTION, *GATED_MLP]
    gate_up = "model.layers.{layer}.mlp.gate_up.weight"
    rows = [row for row in rows if row.field not in ("layers.mlp.gate.matrix", "layers.mlp.up.matrix")]
    for start, name in enumerate(("gate", "up")):
        how = Stored(gate_up, Part(start, 2 * WIDTH, 2 * WIDTH, step=2))
        rows.append(Row(f"layers.mlp.{name}.matrix", how, None, ("width", "hidden")))
        rows.append(Row(f"layers.mlp.{name}.bias", replace(how, name=gate_up.replace("weight", "bias"), plus=1.0), None, ("width",)))
    state = OUTSIDE | attention_arrays() | arrays(down=(HIDDEN, WIDTH), both=(2 * WIDTH, HIDDEN), biases=(2 * WIDTH,))
    prefix = "model.layers.0.mlp."
    for name, ours in (("down_proj.weight", "down"), ("gate_up.weight", "both"), ("gate_up.bias", "biases")):
        state[prefix + name] = state.pop(ours)
    mlp = load(spec_of(DENSE), rows, state).layers[0].mlp
    assert mlp is not None
    assert mlp.gate is not None
    for start, linear in ((0, mlp.gate), (1, mlp.up)):
        np.testing.assert_array_equal(linear.matrix, state[prefix + "gate_up.weight"][start::2])
        np.testing.assert_array_equal(linear.bias, state[prefix + "gate_up.bias"][start::2] + np.float32(1))


@pytest.mark.parametrize(
    ("part", "taken"),
    [
        (Part(0, 32, 128), 32),  # too few
        (Part(0, 64, 48), 64),  # past the run
        (Part(64, 128, 128, 2), 128),  # of too many runs
        (Part(-64, 0, 128), 64),
        (Part(64, 64, 128), 0),
        (Part(0, 128, 128, step=3), 43),
    ],
)
def test_a_part_that_does_not_fit_is_named(part: Part, taken: int) -> None:
    rows = packed_rows(packed(part), packed(Part(64, 96, 128)), packed(Part(96, 128, 128)))
    with pytest.raises(ModelFileError, match=rf"layers\.0\.qkv\.weight: .*layers\.0\.attention\.query\.matrix takes {taken} rows .* 64"):
        load(spec_of(DENSE), rows, packed_state(np.zeros((128, HIDDEN), np.float32)))


def test_slots_that_want_one_tensor_in_two_shapes_are_both_named() -> None:
    rows = packed_rows(packed(Part(0, 64, 128)), packed(Part(64, 96, 128)), packed(Part(0, 32, 100)))
    with pytest.raises(ModelFileError, match=r"of the wrong shape: model\.layers\.0\.qkv\.weight is \[128, 32\], not \[100, 32\]$"):
        load(spec_of(DENSE), rows, packed_state(np.zeros((128, HIDDEN), np.float32)))


# ---- experts


@pytest.mark.parametrize("biased", [False, True])
def test_experts_of_their_own_tensors_are_stacked(biased: bool) -> None:
    state = expert_state(biased)
    experts = load(spec_of(MIXED), EXPERT_ROWS, state).layers[0].experts
    assert experts is not None
    for expert in range(EXPERTS):
        np.testing.assert_array_equal(experts.down.matrix[expert], state[f"model.layers.0.experts.{expert}.down"])
        if biased:
            np.testing.assert_array_equal(experts.down.bias[expert], state[f"model.layers.0.experts.{expert}.down_bias"])
    assert (experts.down.bias is None) == (not biased)


def test_experts_in_one_tensor_with_gate_and_up_in_turns() -> None:
    """As gpt-oss has them: [experts, in, 2 * out], every second column the gate's."""
    both = "model.layers.{layer}.experts.both"
    rows = [row for row in EXPERT_ROWS if row.field not in ("layers.experts.gate.matrix", "layers.experts.up.matrix")]
    for start, name in enumerate(("gate", "up")):
        part = Part(start, 2 * WIDTH, 2 * WIDTH, step=2)
        rows.append(Row(f"layers.experts.{name}.matrix", Stored(both, part, transposed=True), None, ("experts", "expert_width", "hidden")))
        rows.append(Row(f"layers.experts.{name}.bias", Stored(both + "_bias", part), None, ("experts", "expert_width")))
    state = {name: values for name, values in expert_state().items() if not name.endswith((".gate", ".up"))}
    state |= arrays(
        **{"model.layers.0.experts.both": (EXPERTS, HIDDEN, 2 * WIDTH), "model.layers.0.experts.both_bias": (EXPERTS, 2 * WIDTH)}
    )
    experts = load(spec_of(MIXED), rows, state).layers[0].experts
    assert experts is not None
    assert experts.gate is not None
    for start, linear in ((0, experts.gate), (1, experts.up)):
        np.testing.assert_array_equal(linear.matrix, state["model.layers.0.experts.both"].swapaxes(1, 2)[:, start::2])
        np.testing.assert_array_equal(linear.bias, state["model.layers.0.experts.both_bias"][:, start::2])


def test_what_chooses_experts_is_never_re_encoded() -> None:
    state = expert_state()
    layer = load(spec_of(MIXED), EXPERT_ROWS, state, Q4_0).layers[0]
    assert layer.router is not None
    assert layer.experts is not None
    assert "router.matrix" in KEPT
    np.testing.assert_array_equal(layer.router.matrix, state["model.layers.0.router.weight"])
    assert not np.array_equal(layer.experts.up.matrix[1], state["model.layers.0.experts.1.up"])


def test_a_matrix_of_one_row_may_be_a_vector_in_the_file() -> None:
    gated = replace(DENSE, mlp=replace(MIXED.mlp, shared=Mlp(WIDTH, "silu"), shared_gated=True))
    how = Stored("model.layers.{layer}.shared_gate", shape=(HIDDEN,))
    rows = [*EXPERT_ROWS, *GATED_MLP[1:], Row("layers.shared_gate.matrix", how, None, (1, "hidden"))]
    state = expert_state() | mlp_arrays() | arrays(**{"model.layers.0.shared_gate": (HIDDEN,)})
    layer = load(spec_of(gated), rows, state).layers[0]
    assert layer.shared_gate is not None
    np.testing.assert_array_equal(layer.shared_gate.matrix, state["model.layers.0.shared_gate"][None])


def test_vectors_and_unit_rows_must_be_floats() -> None:
    spec = spec_of(DENSE)
    unit = Row("embedding", Stored("model.embed_tokens.weight", unit_rows=True), None, ("vocab", "hidden"))
    table = standard_table(spec, DENSE_ROWS)
    table = replace(table, rows=(unit, *table.rows[1:]))
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        with pytest.raises(UnsupportedModelError, match=rf"{name} \(q8_0\)"):
            plan(spec, table, Stores(DENSE_STATE, {name: Q8_0}))
    weights = assemble(ReferenceOps(), spec, table, Stores(DENSE_STATE, {"model.embed_tokens.weight": BF16}))
    np.testing.assert_allclose(np.linalg.norm(weights.embedding, axis=1), 1, rtol=1e-2)
    state = DENSE_STATE | {"model.embed_tokens.weight": np.zeros((20, HIDDEN), np.float32)}
    assert not assemble(ReferenceOps(), spec, table, MemorySource(state)).embedding.any()  # not NaN


def test_an_entry_for_each_layer() -> None:
    remixed = replace(DENSE, remixed=True)
    rows = [*DENSE_ROWS]
    for field in ("input_scale", "first_scale"):
        rows.append(Row(f"layers.{field}", Stored(field, by_layer=True), None, (1,)))
    state = DENSE_STATE | attention_arrays(1) | mlp_arrays(1) | arrays(input_scale=(2,), first_scale=(2,))
    weights = load(spec_of(remixed, remixed), rows, state)
    assert [layer.input_scale.tolist() for layer in weights.layers] == state["input_scale"][:, None].tolist()
    state["first_scale"] = np.zeros(3, np.float32)
    with pytest.raises(ModelFileError, match=r"first_scale is \[3\], not \[2\]$"):
        load(spec_of(remixed, remixed), rows, state)


@pytest.mark.parametrize("hidden", [6, 7])
def test_sinusoidal_positions(hidden: int) -> None:
    table = dequantize(sinusoidal_table(50, hidden))
    for position, column in ((0, 0), (0, 1), (3, 0), (3, 1), (49, 4), (49, 5)):
        angle = position / 10000 ** (2 * (column // 2) / hidden)
        assert table[position, column] == pytest.approx(np.sin(angle) if column % 2 == 0 else np.cos(angle), abs=1e-6)


def test_sinusoidal_positions_are_made_and_not_loaded() -> None:
    spec = spec_of(DENSE, embedding=replace(spec_of(DENSE).embedding, positions=Positions(64, "sinusoidal")))
    weights = load(spec, DENSE_ROWS, DENSE_STATE)
    np.testing.assert_array_equal(weights.positions, dequantize(sinusoidal_table(64, HIDDEN)))


def test_a_packed_tensor_is_given_back_once_no_part_reads_it() -> None:
    """Its last part may own its copy while another still reads the file."""

    class Keeps(ReferenceOps):
        def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Any:
            return raw

        def owns(self, matrix: Any) -> bool:
            return matrix.shape[0] == self.owned

        owned = 0

    class Watched(MemorySource):
        released: list[str]

        def release(self, name: str) -> None:
            self.released.append(name)

    rows = packed_rows(packed(Part(0, 64, 128)), packed(Part(64, 96, 128)), packed(Part(96, 128, 128)))
    for owned, expected in ((32, False), (64, False)):
        ops, source = Keeps(), Watched(packed_state(np.zeros((128, HIDDEN), np.float32)))
        ops.owned, source.released = owned, []
        assemble(ops, spec_of(DENSE), standard_table(spec_of(DENSE), rows), source)
        assert ("model.layers.0.qkv.weight" in source.released) == expected
    # Rows of several runs are copied: nothing reads the tensor any more.
    rows = packed_rows(packed(Part(0, 32, 64, 2)), packed(Part(32, 48, 64, 2)), packed(Part(48, 64, 64, 2)))
    ops, source = Keeps(), Watched(packed_state(np.zeros((128, HIDDEN), np.float32)))
    source.released = []
    assemble(ops, spec_of(DENSE), standard_table(spec_of(DENSE), rows), source)
    assert source.released.count("model.layers.0.qkv.weight") == 1
