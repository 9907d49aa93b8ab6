"""The reference ops that work row by row, each against torch in float64; attention, experts and sampling have files of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_steps import NORM, Floats, batch_of, double, normal, ops_in
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from linnet.arch.rope import angles
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Activation, Norm, Output
from linnet.ops.reference import ReferenceOps
from linnet.tensors import BF16, F16, F32, Q8_0, RawTensor
from linnet.weights import PLAIN, NormWeights

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
    "relu": torch.nn.functional.relu,
    "relu_squared": lambda t: torch.nn.functional.relu(t).square(),
    "sigmoid": torch.sigmoid,
}


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


# ---- weights


def test_a_matrix_is_its_tensor_in_float32(random: np.random.Generator) -> None:
    values = normal(random, 5, 64)
    ops = ReferenceOps()
    for tensor_type, dtype in ((F32, torch.float32), (F16, torch.float16), (BF16, torch.bfloat16)):
        stored = torch.from_numpy(values).to(dtype)
        raw = RawTensor("w", (5, 64), tensor_type, stored.view(torch.uint8).numpy().reshape(-1))
        matrix = ops.matrix(raw)
        np.testing.assert_array_equal(matrix, stored.float().numpy())
        assert matrix.dtype == np.float32
        assert not np.shares_memory(matrix, raw.data)
        assert ops.owns(matrix)


def test_a_target_rounds_the_matrix(random: np.random.Generator) -> None:
    values = normal(random, 4, 96)
    raw = RawTensor("w", (4, 96), F32, values.view(np.uint8).reshape(-1))
    ops = ReferenceOps()
    matrix = ops.matrix(raw, Q8_0)
    step = np.abs(values.reshape(-1, 32)).max(axis=1) / 127
    error = np.abs(matrix - values).reshape(-1, 32).max(axis=1)
    assert (error > 0).all()
    assert (error < 0.52 * step).all()  # half a step, and the rounding of the f16 scale
    np.testing.assert_array_equal(ops.stack([raw, raw], Q8_0), np.stack([matrix, matrix]))


# ---- norms


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("weighted", ["no", "one for all groups", "one for each"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm(random: np.random.Generator, kind: str, groups: int, weighted: str, biased: bool) -> None:
    width = 30 // groups
    x = normal(random, 4, 30) + 1
    wide = 30 if weighted == "one for each" else width
    weight = None if weighted == "no" else normal(random, wide)
    bias = normal(random, wide) if biased else None
    parts = double(x).reshape(4, groups, width)
    if kind == "rms":
        expected = torch.nn.functional.rms_norm(parts, (width,), eps=NORM.epsilon)
    else:
        expected = torch.nn.functional.layer_norm(parts, (width,), eps=NORM.epsilon)
    if weight is not None:
        expected = expected * double(weight).reshape(-1, width)
    if bias is not None:
        expected = expected + double(bias).reshape(-1, width)
    ours = ReferenceOps().norm(x, NormWeights(weight, bias), Norm(NORM.epsilon, "layer" if kind == "layer" else "rms"), groups)
    np.testing.assert_allclose(ours, expected.reshape(4, 30).numpy(), rtol=1e-5, atol=2e-6)


def test_a_constant_row_has_no_variance() -> None:
    x = np.full((2, 8), 1e4, np.float32)
    np.testing.assert_array_equal(ReferenceOps().norm(x, PLAIN, Norm(1e-5, "layer")), np.zeros((2, 8)))
    np.testing.assert_array_equal(ReferenceOps().norm(0 * x, PLAIN, Norm(1e-5)), np.zeros((2, 8)))


# ---- projections and activations


def test_linear(random: np.random.Generator) -> None:
    x, matrix, bias = normal(random, 3, 70), normal(random, 11, 70), normal(random, 11)
    ops = ReferenceOps()
    for b in (None, bias):
        expected = torch.nn.functional.linear(double(x), double(matrix), None if b is None else double(b))
        np.testing.assert_allclose(ops.linear(x, matrix, b), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert ops.linear(x[:0], matrix, bias).shape == (0, 11)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_activations(random: np.random.Generator, activation: Activation) -> None:
    x, up = 5 * normal(random, 4, 33), normal(random, 4, 33)
    x[0, :4] = [-200.0, 200.0, 0.0, -0.0]
    expected = FUNCTIONS[activation](double(x))
    ops = ReferenceOps()
    np.testing.assert_allclose(ops.activate(x, activation), expected.numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(ops.gate(x, up, activation), (expected * double(up)).numpy(), rtol=1e-5, atol=1e-5)


def test_clamped_swiglu_is_that_of_gpt_oss(random: np.random.Generator) -> None:
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    gate, up = 8 * normal(random, 4, 33), 8 * normal(random, 4, 33)
    theirs = GptOssExperts(GptOssConfig(num_local_experts=1, intermediate_size=4, hidden_size=4))
    expected = theirs._apply_gate(torch.stack([double(gate), double(up)], dim=-1).flatten(-2))
    np.testing.assert_allclose(ReferenceOps().gate(gate, up, "clamped_swiglu"), expected.numpy(), rtol=1e-5, atol=1e-6)


# ---- rotary positions


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("start", "dim"), [(0, 12), (0, 8), (4, 8), (2, 6)])
def test_rotate(random: np.random.Generator, interleaved: bool, start: int, dim: int) -> None:
    """Both pair orders against the two functions of transformers; entries outside [start, start + dim) are untouched."""
    head_dim, heads, positions = 12, 3, [0, 1, 40, 41]
    rope = Rope(dim, 10000.0, 512, interleaved, start=start)
    x = normal(random, len(positions), heads * head_dim)
    ours = ops_in(batch_of(positions)).rotate(x, rope, head_dim).reshape(len(positions), heads, head_dim)
    cos, sin = (torch.from_numpy(a).double()[None] for a in angles(rope, np.array(positions, np.int32), np.zeros(4, np.int32)))
    rotated = slice(start, start + dim)
    q = double(x).reshape(1, len(positions), heads, head_dim)[..., rotated]
    if interleaved:
        expected = rotate_interleaved(q, sin, cos)
    else:
        expected, _ = rotate_halves(q, q, torch.cat([cos, cos], -1), torch.cat([sin, sin], -1), unsqueeze_dim=2)
    np.testing.assert_allclose(ours[..., rotated], expected[0].numpy(), rtol=1e-5, atol=1e-6)
    untouched = np.delete(np.arange(head_dim), np.arange(head_dim)[rotated])
    np.testing.assert_array_equal(ours[..., untouched], x.reshape(ours.shape)[..., untouched])


@pytest.mark.parametrize("prompt", [1, 2, 7])
def test_positions_of_chatglm(random: np.random.Generator, prompt: int) -> None:
    """Its own code numbers a prompt of n tokens 0 ... n - 2, n - 2 and its block 0 ... 0, 1; answers go on with n - 2 and 2, 3 ..."""
    positions = list(range(10))
    stops = [*range(prompt - 1), *[max(prompt - 2, 0)] * (11 - prompt)]
    counts = [*[0] * (prompt - 1), *range(1, 12 - prompt)]
    x = normal(random, 10, 16)
    rope = Rope(8, 10000.0, 512)
    for kind, expected in (("prompt", stops), ("block", counts)):
        ours = ops_in(batch_of(positions, prompt=prompt)).rotate(x, replace(rope, positions=kind), 8)
        one_by_one = [ops_in(batch_of([at])).rotate(x[i : i + 1], rope, 8) for i, at in enumerate(expected)]
        np.testing.assert_array_equal(ours, np.concatenate(one_by_one))


# ---- what moves and scales


def test_embed_takes_rows_of_tokens_previous_tokens_and_positions(random: np.random.Generator) -> None:
    table = normal(random, 20, 6)
    table[-1] = np.nan  # the row that index -1 would take
    batch = replace(batch_of([0, 1, 2, 7]), tokens=np.array([3, 0, 5, 3], np.int32), previous=np.array([-1, 3, 0, 9], np.int32))
    ops = ops_in(batch)
    np.testing.assert_array_equal(ops.embed(table, "tokens"), table[[3, 0, 5, 3]])
    np.testing.assert_array_equal(ops.embed(table, "previous"), np.stack([np.zeros(6), table[3], table[0], table[9]]))
    np.testing.assert_array_equal(ops.embed(table, "positions", 2), table[[2, 3, 4, 9]])


def test_what_adds_scales_and_weighs(random: np.random.Generator) -> None:
    a, b, gates = normal(random, 4, 12), normal(random, 4, 12), normal(random, 4, 3)
    ops = ReferenceOps()
    expected = (2.5 * double(a) - 0.5 * double(b)).numpy()
    np.testing.assert_allclose(ops.add(a, b, 2.5, -0.5), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ops.add(a, b), a + b)
    for factor in (0.3, np.array([0.3], np.float32)):
        np.testing.assert_array_equal(ops.scale(a, factor), a * np.float32(0.3))
    weighed = double(a).reshape(4, 3, 4) * double(gates)[..., None]
    np.testing.assert_allclose(ops.weigh(a, gates), weighed.reshape(4, 12).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(ops.weigh(a, gates[:, :1]), a * gates[:, :1])
    for result in (ops.add(a, b), ops.scale(a, 0.3), ops.weigh(a, gates)):
        assert result.dtype == np.float32


def test_what_takes_and_joins_columns_and_rows(random: np.random.Generator) -> None:
    x, shared = normal(random, 5, 12), normal(random, 5, 2)
    ops = ops_in(replace(batch_of([0, 1, 2, 3, 4]), rows=np.array([1, 4], np.int32)))
    np.testing.assert_array_equal(ops.columns(x, 3, 4), x[:, 3:7])
    np.testing.assert_array_equal(ops.take(x), x[[1, 4]])
    heads = double(x).reshape(5, 3, 4)
    expected = torch.cat([heads, double(shared)[:, None].expand(5, 3, 2)], dim=2).flatten(1)
    np.testing.assert_array_equal(ops.append_shared(x, shared, 3), expected.numpy())


@pytest.mark.parametrize("output", [Output(), Output(0.125), Output(softcap=3.0), Output(16.0, 30.0)])
def test_logits(random: np.random.Generator, output: Output) -> None:
    x, matrix, bias = normal(random, 3, 20), normal(random, 11, 20), normal(random, 11)
    for b in (None, bias):
        expected = torch.nn.functional.linear(double(x), double(matrix), None if b is None else double(b)) * output.scale
        if output.softcap is not None:
            expected = output.softcap * torch.tanh(expected / output.softcap)
        ours = ReferenceOps().logits(x, matrix, b, output)
        np.testing.assert_allclose(ours, expected.numpy(), rtol=2e-5, atol=1e-5)
        assert ours.dtype == np.float32


# ---- rows alone


def test_no_op_lets_a_row_see_another(random: np.random.Generator) -> None:
    """Bitwise: every op that sums or takes exponentials, on rows together and one at a time."""
    x, up = 3 * normal(random, 37, 60), normal(random, 37, 60)
    matrix, bias, weight, gates = normal(random, 301, 60), normal(random, 301), normal(random, 60), normal(random, 37, 3)
    ops = ReferenceOps()
    cases: list[Callable[[slice], Floats]] = [
        lambda rows: ops.linear(x[rows], matrix, bias),
        lambda rows: ops.logits(x[rows], matrix, bias, Output(0.3, 20.0)),
        lambda rows: ops.norm(x[rows], NormWeights(weight), NORM),
        lambda rows: ops.norm(x[rows], NormWeights(weight, weight), Norm(1e-5, "layer"), 4),
        lambda rows: ops.weigh(x[rows], gates[rows]),
        lambda rows: ops.gate(x[rows], up[rows], "clamped_swiglu"),
        *((lambda rows, name=name: ops.activate(x[rows], name)) for name in FUNCTIONS),
    ]
    for run in cases:
        together = run(slice(None))
        for start, stop in ((0, 1), (1, 4), (4, 21), (36, 37)):
            np.testing.assert_array_equal(run(slice(start, stop)), together[start:stop])
