"""Attention of the reference op set: every option against a softmax written with torch in float64, and what its cache keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_steps import NORM, Floats, batch_of, double, normal, ops_in, spec_of
from transformers.models.bloom.configuration_bloom import BloomConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss_attention

from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Attention
from linnet.errors import InvalidRequestError
from linnet.ops.base import KV_DTYPES, PAGE_SIZE
from linnet.ops.reference import KV_TYPES, ReferenceOps, rounded
from linnet.weights import NormWeights

N = 2 * PAGE_SIZE + 7
TABLE = [[6, 1, 3]]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def inputs(random: np.random.Generator, attention: Attention, n: int = N) -> tuple[Floats, Floats, Floats]:
    return normal(random, n, attention.query_width), normal(random, n, attention.key_width), normal(random, n, attention.value_width)


def attend(qkv: tuple[Floats, Floats, Floats], attention: Attention, sinks: Floats | None = None, prompt: int | None = None) -> Floats:
    """The whole of `qkv` in one step on pages in odd order; prompt: the length of a bidirectional one."""
    n = len(qkv[0])
    ops = ops_in(batch_of(list(range(n)), table=TABLE, prompt=prompt or n), attention, bidirectional=prompt is not None)
    return ops.attend(*qkv, 0, attention, sinks)


def by_definition(
    qkv: tuple[Floats, Floats, Floats], attention: Attention, sinks: Floats | None = None, prompt: int | None = None
) -> Floats:
    n, repeat = len(qkv[0]), attention.heads // attention.kv_heads
    q, k, v = (
        double(x).reshape(n, heads, -1).transpose(0, 1) for x, heads in zip(qkv, (attention.heads, *[attention.kv_heads] * 2), strict=True)
    )
    k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
    scores = q @ k.transpose(1, 2) * attention.scale
    distance = torch.arange(n)[:, None] - torch.arange(n)
    if attention.alibi is not None:
        scores = scores - torch.tensor(attention.alibi).double()[:, None, None] * distance
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    seen = distance >= 0
    if prompt is not None:
        seen |= (torch.arange(n) < prompt - 1)[:, None] & (torch.arange(n) < prompt - 1)
    seen &= distance < (attention.window or n)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, double(sinks)[:, None, None].expand(-1, n, 1)], dim=2)
    mixed = torch.softmax(scores, dim=2)[..., :n] @ v
    return mixed.transpose(0, 1).reshape(n, -1).numpy()


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_windows_and_shared_heads(random: np.random.Generator, kv_heads: int, window: int | None) -> None:
    attention = Attention(6, kv_heads, 10, (), 0.3, window)
    qkv = inputs(random, attention)
    np.testing.assert_allclose(attend(qkv, attention), by_definition(qkv, attention), rtol=1e-4, atol=1e-5)


OPTIONS = {
    "values narrower than keys": {"value_dim": 4},
    "values wider than keys": {"value_dim": 19},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": (1.0, 0.5, 0.25, 0.125, 0.7, 0.0)},
    "all": {"value_dim": 7, "softcap": 2.0, "alibi": (0.3, 0.2, 0.1, 0.05, 0.5, 0.4), "window": 37},
}


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(random: np.random.Generator, name: str, sinks: bool) -> None:
    attention = Attention(6, 2, 10, (), 0.3, **OPTIONS[name])
    qkv, scores = inputs(random, attention), normal(random, 6) if sinks else None
    np.testing.assert_allclose(attend(qkv, attention, scores), by_definition(qkv, attention, scores), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("prompt", [1, 2, PAGE_SIZE + 5, N])
def test_a_bidirectional_prompt_sees_itself_but_for_its_last(random: np.random.Generator, prompt: int, window: int | None) -> None:
    attention = Attention(2, 2, 10, (), 0.3, window)
    qkv = inputs(random, attention)
    np.testing.assert_allclose(attend(qkv, attention, prompt=prompt), by_definition(qkv, attention, prompt=prompt), rtol=1e-4, atol=1e-5)


class Module(torch.nn.Module):
    """What the attention functions of transformers look up in theirs."""

    def __init__(self, groups: int, sinks: torch.Tensor | None = None) -> None:
        super().__init__()
        self.num_key_value_groups, self.sinks = groups, sinks
        self.eval()


def theirs(qkv: tuple[Floats, Floats, Floats], function, module: Module, **options) -> Floats:
    n = len(qkv[0])
    q, k, v = (double(x).reshape(1, n, -1, 10).transpose(1, 2) for x in qkv)
    mask = torch.full((n, n), -torch.inf).double().triu(1)[None, None]
    return function(module, q, k, v, mask, **options)[0].reshape(n, -1).numpy()


def test_sinks_are_those_of_gpt_oss(random: np.random.Generator) -> None:
    attention = replace(Attention(6, 2, 10, (), 0.3), sinks=True)
    qkv, sinks = inputs(random, attention), normal(random, 6)
    expected = theirs(qkv, gpt_oss_attention, Module(3, double(sinks)), scaling=0.3)
    np.testing.assert_allclose(attend(qkv, attention, sinks), expected, rtol=1e-4, atol=1e-5)


def test_softcap_is_that_of_gemma_2(random: np.random.Generator) -> None:
    attention = Attention(6, 2, 10, (), 0.3, softcap=1.7)
    qkv = inputs(random, attention)
    expected = theirs(qkv, gemma2_attention, Module(3), scaling=0.3, softcap=1.7)
    np.testing.assert_allclose(attend(qkv, attention), expected, rtol=1e-4, atol=1e-5)


def test_alibi_is_that_of_bloom(random: np.random.Generator) -> None:
    """Bloom's bias grows with the key's position alone; the query's falls out of the softmax."""
    n, heads = N, BloomConfig(n_head=6).n_head
    bias = build_alibi_tensor(torch.ones(1, n), heads, torch.float64)  # [heads, 1, n]
    slopes = tuple((bias[:, 0, 1] - bias[:, 0, 0]).tolist())
    attention = Attention(heads, heads, 10, (), 0.3, alibi=slopes)
    q, k, v = qkv = inputs(random, attention)
    tq, tk, tv = (double(x).reshape(n, heads, 10).transpose(0, 1) for x in (q, k, v))
    mask = torch.full((n, n), -torch.inf).double().triu(1)
    expected = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, attn_mask=bias + mask, scale=0.3)
    np.testing.assert_allclose(attend(qkv, attention), expected.transpose(0, 1).reshape(n, -1).numpy(), rtol=1e-4, atol=1e-5)


# ---- what a cache keeps


@pytest.mark.parametrize("width", [1, 20, 32, 40, 64])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_cache_rounds_as_its_type_does(random: np.random.Generator, kv_dtype: str, width: int) -> None:
    x = 3 * normal(random, 5, 2, width)
    x[0, 0, 0], x[1] = 1e6, 0.0
    found = rounded(x, KV_TYPES[kv_dtype])
    if kv_dtype == "f32":
        np.testing.assert_array_equal(found, x)
    elif kv_dtype == "bf16":
        np.testing.assert_array_equal(found, torch.from_numpy(x).bfloat16().float().numpy())
    elif kv_dtype == "f16":
        np.testing.assert_array_equal(found, torch.from_numpy(x).clamp(-65504, 65504).half().float().numpy())
    else:
        for begin in range(0, width, 32):
            block, kept = x[..., begin : begin + 32], found[..., begin : begin + 32]
            scale = np.abs(block).max(axis=2, keepdims=True) / 127
            error = np.abs(kept - block)
            # Half a step, and the rounding of the scale to a float16 (of 11 bits, or subnormal).
            assert (error <= 0.5 * scale + np.abs(block) * 2**-10 + 127 * 2.0**-25).all()
            levels = np.unique(np.round(kept[2, 0] / (scale.astype(np.float16).astype(np.float32)[2, 0]), 3))
            np.testing.assert_array_equal(levels, np.round(levels))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_keys_and_values_pass_through_the_cache(random: np.random.Generator, kv_dtype: str) -> None:
    """Attention of a cache of a type is attention of what that type keeps of keys and values."""
    attention = Attention(2, 2, 20, (), 1.0, value_dim=36)
    q, k, v = inputs(random, attention, 9)
    batch = batch_of(list(range(9)))
    kept = [rounded(x.reshape(9, 2, -1), KV_TYPES[kv_dtype]).reshape(9, -1) for x in (k, v)]
    through = ops_in(batch, attention, kv_dtype).attend(q, k, v, 0, attention, None)
    np.testing.assert_array_equal(through, ops_in(batch, attention, "f32").attend(q, *kept, 0, attention, None))
    exact = ops_in(batch, attention, "f32").attend(q, k, v, 0, attention, None)
    assert np.array_equal(through, exact) == (kv_dtype == "f32")


def test_another_cache_type_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"q3_x.*f16, bf16, q8_0, f32"):
        ReferenceOps().allocate_cache(spec_of(Attention(2, 2, 4, (), 1.0)), [1], "q3_x")


# ---- rows alone


@pytest.mark.parametrize("kv_dtype", ["f16", "q8_0"])
def test_each_row_is_computed_as_if_alone(random: np.random.Generator, kv_dtype: str) -> None:
    """Bitwise: rows together in any number, and one at a time, from norm to activation."""
    rope = Rope(18, 10000.0, 512)
    attention = Attention(4, 2, 18, (rope,), 0.2, window=37, value_dim=10, softcap=5.0, alibi=(0.1, 0.2, 0.3, 0.4), sinks=True)
    n = 75
    q, k, v = inputs(random, attention, n)
    matrix, bias, weight, sinks = normal(random, 301, 40), normal(random, 301), normal(random, 18), normal(random, 4)

    def run(chunks: list[int]) -> Iterator[Floats]:
        spec = spec_of(attention)
        ops = ReferenceOps()
        ops.allocate_cache(spec, [4], kv_dtype)
        for start, stop in zip([0, *chunks], [*chunks, n], strict=True):
            rows = slice(start, stop)
            ops.begin(spec, batch_of(list(range(start, stop)), table=[[2, 0, 3]]))
            q_rotated, k_rotated = (ops.rotate(ops.norm(x[rows], NormWeights(weight), NORM, x.shape[1] // 18), rope, 18) for x in (q, k))
            yield ops.activate(ops.linear(ops.attend(q_rotated, k_rotated, v[rows], 0, attention, sinks), matrix, bias), "silu")

    whole = np.concatenate(list(run([])))
    for chunks in (list(range(1, n)), list(range(7, n, 7)), [1, 3, 40]):
        np.testing.assert_array_equal(np.concatenate(list(run(chunks))), whole)


def test_sequences_of_one_batch_do_not_meet(random: np.random.Generator) -> None:
    """Bitwise: two sequences with pages in between each other, in one step and each by itself."""
    attention = Attention(4, 2, 10, (), 0.3)
    lengths, tables = (40, 51), [[4, 1], [0, 3]]
    parts = [inputs(random, attention, n) for n in lengths]
    positions = [*range(lengths[0]), *range(lengths[1])]
    batch = batch_of(positions, [0] * lengths[0] + [1] * lengths[1], tables)
    together = ops_in(batch, attention).attend(*(np.concatenate(pair) for pair in zip(*parts, strict=True)), 0, attention, None)
    alone = [
        ops_in(batch_of(list(range(n)), table=[table]), attention).attend(*qkv, 0, attention, None)
        for n, table, qkv in zip(lengths, tables, parts, strict=True)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))
