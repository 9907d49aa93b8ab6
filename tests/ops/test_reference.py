"""The reference ops, each against torch in float64 or by its own definition; whole models are in tests/agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from linnet.arch.rope import angles
from linnet.arch.spec import Activation, Attention, Layer, Mlp, ModelSpec, Norm, Rope
from linnet.errors import InvalidRequestError
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.reference import ReferenceOps
from linnet.tensors import BF16, F16, F32, Q8_0, RawTensor
from linnet.weights import NormWeights

NORM = Norm(1e-5)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def normal(random: np.random.Generator, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return random.standard_normal(shape).astype(np.float32)


def double(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(x).double()


def spec_of(attention: Attention) -> ModelSpec:
    layer = Layer(attention, Mlp(8, "silu"), NORM, NORM)
    return ModelSpec("llama", 16, 8, 512, (layer,), NORM, tied=False)


def batch_of(positions: list[int], sequence: list[int] | None = None, table: list[list[int]] | None = None) -> Batch:
    n = len(positions)
    pages = np.array(table if table is not None else [list(range(max(positions) // PAGE_SIZE + 1))], np.int32)
    lengths = np.full(len(pages), 512, np.int32)
    rows = np.arange(n, dtype=np.int32)
    tokens = rows % 16
    return Batch(tokens, np.array(positions, np.int32), tokens - 1, np.array(sequence or [0] * n, np.int32), pages, lengths, lengths, rows)


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
    matrix = ReferenceOps().matrix(raw, Q8_0)
    step = np.abs(values.reshape(-1, 32)).max(axis=1) / 127
    error = np.abs(matrix - values).reshape(-1, 32).max(axis=1)
    assert (error > 0).all()
    assert (error < 0.52 * step).all()  # half a step, and the rounding of the f16 scale


# ---- the step


@pytest.mark.parametrize("groups", [1, 3])
def test_norm(random: np.random.Generator, groups: int) -> None:
    x, weight = normal(random, 4, 30), normal(random, 30 // groups)
    expected = torch.nn.functional.rms_norm(double(x).reshape(4, groups, -1), (30 // groups,), double(weight), NORM.epsilon)
    ours = ReferenceOps().norm(x, NormWeights(weight), NORM, groups)
    np.testing.assert_allclose(ours, expected.reshape(4, 30).numpy(), rtol=1e-5, atol=1e-6)


def test_linear(random: np.random.Generator) -> None:
    x, matrix, bias = normal(random, 3, 70), normal(random, 11, 70), normal(random, 11)
    ops = ReferenceOps()
    for b in (None, bias):
        expected = torch.nn.functional.linear(double(x), double(matrix), None if b is None else double(b))
        np.testing.assert_allclose(ops.linear(x, matrix, b), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert ops.linear(x[:0], matrix, bias).shape == (0, 11)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(random: np.random.Generator, activation: Activation) -> None:
    x, up = 5 * normal(random, 4, 33), normal(random, 4, 33)
    x[0, :4] = [-200.0, 200.0, 0.0, -0.0]
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
        "relu": torch.nn.functional.relu,
    }
    expected = functions[activation](double(x))
    ops = ReferenceOps()
    np.testing.assert_allclose(ops.activate(x, activation), expected.numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(ops.gate(x, up, activation), (expected * double(up)).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [12, 8])
def test_rotate(random: np.random.Generator, interleaved: bool, dim: int) -> None:
    """Both pair orders against the two functions of transformers; past `dim` a head is untouched."""
    head_dim, heads, positions = 12, 3, [0, 1, 40, 41]
    rope = Rope(dim, 10000.0, 512, interleaved)
    x = normal(random, len(positions), heads * head_dim)
    ops = ReferenceOps()
    ops.begin(spec_of(Attention(heads, heads, head_dim, (rope,), 1.0)), batch_of(positions))
    ours = ops.rotate(x, rope, head_dim).reshape(len(positions), heads, head_dim)
    cos, sin = (torch.from_numpy(a).double()[None] for a in angles(rope, np.array(positions, np.int32), np.zeros(4, np.int32)))
    q = double(x).reshape(1, len(positions), heads, head_dim)
    if interleaved:
        expected = rotate_interleaved(q[..., :dim], sin, cos)
    else:
        expected, _ = rotate_halves(q[..., :dim], q[..., :dim], torch.cat([cos, cos], -1), torch.cat([sin, sin], -1), unsqueeze_dim=2)
    np.testing.assert_allclose(ours[..., :dim], expected[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[..., dim:], x.reshape(ours.shape)[..., dim:])


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_attend(random: np.random.Generator, kv_heads: int, window: int | None) -> None:
    heads, head_dim, n = 6, 10, 2 * PAGE_SIZE + 7
    attention = Attention(heads, kv_heads, head_dim, (), 0.3, window)
    q, k, v = normal(random, n, heads * head_dim), normal(random, n, kv_heads * head_dim), normal(random, n, kv_heads * head_dim)
    ops = ReferenceOps()
    ops.allocate_cache(spec_of(attention), 7, "f32")
    ops.begin(spec_of(attention), batch_of(list(range(n)), table=[[6, 1, 3]]))
    ours = ops.attend(q, k, v, 0, attention, None)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    mask = (distance >= 0) & (distance < (window or n))
    tq, tk, tv = (double(a).reshape(n, -1, head_dim).transpose(0, 1) for a in (q, k, v))
    repeat = heads // kv_heads
    expected = torch.nn.functional.scaled_dot_product_attention(
        tq, tk.repeat_interleave(repeat, 0), tv.repeat_interleave(repeat, 0), attn_mask=mask, scale=0.3
    )
    np.testing.assert_allclose(ours, expected.transpose(0, 1).reshape(n, -1).numpy(), rtol=1e-4, atol=1e-5)


def test_the_f16_cache_rounds_keys_and_values(random: np.random.Generator) -> None:
    attention = Attention(2, 2, 4, (), 1.0)
    q, k, v = (normal(random, 9, 8) for _ in range(3))
    results = []
    for keys, values, kv_dtype in ((k, v, "f16"), (k.astype(np.float16), v.astype(np.float16), "f32"), (k, v, "f32")):
        ops = ReferenceOps()
        ops.allocate_cache(spec_of(attention), 1, kv_dtype)
        ops.begin(spec_of(attention), batch_of(list(range(9))))
        results.append(ops.attend(q, keys.astype(np.float32), values.astype(np.float32), 0, attention, None))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    with pytest.raises(InvalidRequestError, match="q3_x"):
        ops.allocate_cache(spec_of(attention), 1, "q3_x")


def test_each_row_is_computed_as_if_alone(random: np.random.Generator) -> None:
    """Bitwise: rows together in any number, and one at a time, through every op that sums."""
    rope = Rope(18, 10000.0, 512)
    attention = Attention(4, 2, 18, (rope,), 0.2, window=37)
    spec = spec_of(attention)
    n, width, kv_width = 75, attention.query_width, attention.key_width
    q, k, v = normal(random, n, width), normal(random, n, kv_width), normal(random, n, kv_width)
    matrix, bias, weight = normal(random, 301, width), normal(random, 301), normal(random, 18)

    def run(chunks: list[int]) -> Iterator[np.ndarray[Any, Any]]:
        ops = ReferenceOps()
        ops.allocate_cache(spec, 4, "f16")
        for start, stop in zip([0, *chunks], [*chunks, n], strict=True):
            rows = slice(start, stop)
            ops.begin(spec, batch_of(list(range(start, stop)), table=[[2, 0, 3]]))
            q_rotated, k_rotated = (ops.rotate(ops.norm(x[rows], NormWeights(weight), NORM, x.shape[1] // 18), rope, 18) for x in (q, k))
            yield ops.activate(ops.linear(ops.attend(q_rotated, k_rotated, v[rows], 0, attention, None), matrix, bias), "silu")

    whole = np.concatenate(list(run([])))
    for chunks in (list(range(1, n)), list(range(7, n, 7)), [1, 3, 40]):
        np.testing.assert_array_equal(np.concatenate(list(run(chunks))), whole)


# ---- sampling


def draws(logits: np.ndarray[Any, Any], temperature: float, top_k: int, top_p: float, min_p: float, n: int = 4000) -> Any:
    """Share of each token among draws at evenly spaced `uniform`s."""
    tokens = [ReferenceOps().sample(logits, temperature, top_k, top_p, min_p, (i + 0.5) / n) for i in range(n)]
    return np.bincount(tokens, minlength=len(logits)) / n


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 1.0, 0.0),
        (1.5, 5, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.1),
        (1.3, 12, 0.9, 0.05),
        (1.0, 6, 0.5, 0.0),
    ],
)
def test_draws_follow_the_distribution_that_transformers_makes(
    random: np.random.Generator, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = 2 * normal(random, 40)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    expected = torch.softmax(warpers(torch.LongTensor([[0]]), torch.DoubleTensor(double(logits)[None])), -1)[0].numpy()
    np.testing.assert_allclose(draws(logits, temperature, top_k, top_p, min_p), expected, atol=1 / 4000)


def test_ties_go_to_the_smaller_id() -> None:
    logits = np.array([1.0, 3.0, 3.0, -np.inf, 3.0], np.float32)
    sample = ReferenceOps().sample
    assert sample(logits, 0.0, 0, 1.0, 0.0, 0.9) == 1
    assert sample(logits, 1.0, 1, 1.0, 0.0, 0.99) == 1
    assert [sample(logits, 1e-3, 0, 1.0, 0.0, u) for u in (0.0, 0.34, 0.67)] == [1, 2, 4]
    assert [sample(logits, 1.0, 2, 1.0, 0.0, u) for u in (0.0, 0.49, 0.51, 1 - 2**-53)] == [1, 1, 2, 2]


def test_a_draw_never_leaves_the_candidates() -> None:
    """Extremes of every option and of `uniform` still give the likeliest token, never one of no weight."""
    logits = np.array([-np.inf, 0.0, -np.inf, -1000.0], np.float32)
    for uniform in (0.0, 1 - 2**-53):
        for temperature in (1e-300, 1.0):
            assert ReferenceOps().sample(logits, temperature, 0, 1.0, 0.0, uniform) == 1
        assert ReferenceOps().sample(logits, 1.0, 0, 0.0, 1.0, uniform) == 1
