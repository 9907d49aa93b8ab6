"""What the kernels of attention, rotation and capping do beyond Llama's shapes, against the reference, on every instruction set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from eager import Floats, batch_of, eager, spec_of

from linnet import _core
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Attention
from linnet.ops.base import KV_DTYPES, Batch
from linnet.ops.native import NativeOps
from linnet.ops.reference import KV_TYPES, ReferenceOps, rounded

ISAS = _core.available_isas()
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 40},
    "narrow values": {"value_dim": 7},
    "wide values": {"value_dim": 50},
    "alibi": {"alibi": (1.0, 0.5, 0.25, 0.125, 0.7, 0.0)},
    "softcap": {"softcap": 1.5},
    "all": {"window": 33, "value_dim": 33, "alibi": (0.5,) * 6, "softcap": 20.0},
}


def normal(random: np.random.Generator, *shape: int) -> Floats:
    return random.standard_normal(shape).astype(np.float32)


def inputs(random: np.random.Generator, attention: Attention, n: int) -> tuple[Floats, Floats, Floats]:
    return 2 * normal(random, n, attention.query_width), normal(random, n, attention.key_width), normal(random, n, attention.value_width)


def attend(
    ops: NativeOps | ReferenceOps, qkv: tuple[Floats, ...], attention: Attention, batch: Batch, sinks: Floats | None = None, **settings: Any
) -> Floats:
    spec = spec_of(attention, **settings)
    if isinstance(ops, ReferenceOps):
        ops.begin(spec, batch)
        return ops.attend(*qkv, 0, attention, sinks)
    vector = None if sinks is None else _core.Vector(sinks)
    return eager(ops, lambda q, k, v: ops.attend(q, k, v, 0, attention, vector), *qkv, batch=batch, spec=spec)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_over_every_type(isa: str, kv_dtype: str, option: str) -> None:
    """Prompts of several lengths, then their continuations: few rows and many see a page, whole pages and parts."""
    random, both = np.random.default_rng(3), (NativeOps(2, isa), ReferenceOps())
    attention = Attention(6, 2, 36, (), 0.2, **OPTIONS[option])
    sinks = normal(random, 6) if option == "all" else None
    for ops in both:
        ops.allocate_cache(spec_of(attention), [12], kv_dtype)
    table = batch_of([(0, 101), (0, 33), (0, 65)], 12).page_table
    for runs in ([(0, 100), (0, 1), (0, 64)], [(100, 101), (1, 33), (64, 65)]):
        batch = replace(batch_of(runs, 12, prompt=60), page_table=table)
        qkv = inputs(random, attention, len(batch.positions))
        bidirectional = option == "plain" and runs[0][0] == 0
        ours, expected = (attend(ops, qkv, attention, batch, sinks, bidirectional_prompt=bidirectional) for ops in both)
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_every_width_of_a_head(isa: str, kv_dtype: str) -> None:
    random, batch = np.random.default_rng(4), batch_of([(0, 3)], 1)
    for width in range(1, 35):
        attention = Attention(2, 1, width, (), 0.5, value_dim=36 - width)
        qkv, both = inputs(random, attention, 3), (NativeOps(1, isa), ReferenceOps())
        for ops in both:
            ops.allocate_cache(spec_of(attention), [1], kv_dtype)
        ours, expected = (attend(ops, qkv, attention, batch) for ops in both)
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_row_has_the_same_bits_in_every_chunk_and_thread_count(isa: str, kv_dtype: str) -> None:
    """Few rows read a page as it is stored and many a copy; tiles have any number of rows."""
    attention = Attention(7, 1, 40, (), 0.2, softcap=10.0, value_dim=24)
    qkv = inputs(np.random.default_rng(5), attention, 75)
    table = batch_of([(0, 75)], 3).page_table

    def in_chunks(threads: int, *cuts: int) -> Floats:
        ops = NativeOps(threads, isa)
        ops.allocate_cache(spec_of(attention), [3], kv_dtype)
        chunks = [replace(batch_of([run], 3), page_table=table) for run in zip((0, *cuts), (*cuts, 75), strict=True)]
        return np.concatenate([attend(ops, tuple(x[b.positions] for x in qkv), attention, b) for b in chunks])

    whole = in_chunks(3)
    np.testing.assert_array_equal(in_chunks(1, *range(1, 75)), whole)
    np.testing.assert_array_equal(in_chunks(2, 2, 5, 31, 33, 70), whole)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_what_is_stored_is_what_the_reference_stores(isa: str, kv_dtype: str) -> None:
    """A row that sees one position alone gives back its value, rounded as the cache rounds."""
    attention, random = Attention(1, 1, 1, (), 1.0, value_dim=75, window=1), np.random.default_rng(6)
    value = normal(random, 20, 75) * np.float32(10) ** random.integers(-6, 7, (20, 1)).astype(np.float32)
    value[0] = 0
    value[1] = np.arange(75) - 37.5  # multiples of half a level, once the largest is scaled to 127
    value[1, ::32] = 127
    ops, ones = NativeOps(1, isa), np.ones((20, 1), np.float32)
    ops.allocate_cache(spec_of(attention), [1], kv_dtype)
    ours = attend(ops, (ones, ones, value), attention, batch_of([(0, 20)], 1))
    np.testing.assert_array_equal(ours, rounded(value[:, None], KV_TYPES[kv_dtype])[:, 0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_what_is_not_a_number_does_not_vanish(isa: str, kv_dtype: str) -> None:
    """Were it lost in a mask, a maximum or a rounding, a broken model would answer nonsense in place of an error."""
    attention = Attention(1, 1, 48, (), 0.1)
    for broken in range(3):
        ops = NativeOps(1, isa)
        ops.allocate_cache(spec_of(attention), [2], kv_dtype)
        qkv = inputs(np.random.default_rng(7), attention, 40)
        qkv[broken][36, 5] = np.nan
        finite = np.isfinite(attend(ops, qkv, attention, batch_of([(0, 40)], 2)))
        assert not finite[36].all()
        assert finite[:32].all()  # those of the page before


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_of_a_part_of_a_head(isa: str, interleaved: bool) -> None:
    native, reference, batch = NativeOps(2, isa), ReferenceOps(), batch_of([(30, 36)], 2)
    for dim in (2, 6, 16, 30, 32, 34, 64, 70):
        for start, after in ((0, 0), (0, 5), (3, 0), (16, 7)):
            rope, head_dim = Rope(dim, 10000.0, 512, interleaved, start=start), start + dim + after
            spec = spec_of(Attention(2, 2, head_dim, (rope,), 1.0))
            reference.begin(spec, batch)
            x = normal(np.random.default_rng(8), 6, 2 * head_dim)
            ours = eager(native, lambda x, rope=rope, head_dim=head_dim: native.rotate(x, rope, head_dim), x, batch=batch)
            np.testing.assert_allclose(ours, reference.rotate(x, rope, head_dim), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_functions_over_their_whole_range(isa: str) -> None:
    """gelu = x P(X < x) keeps its digits in the lower tail, and tanh near zero, where differences of nearly equal numbers lose them."""
    ops = NativeOps(1, isa)
    x = np.concatenate([np.linspace(-5.5, 9, 30001), -np.logspace(-30, 0, 301), np.logspace(-30, 0, 301)]).astype(np.float32)[None]
    wide = torch.from_numpy(x).double()
    gelu = eager(ops, lambda x: ops.activate(x, "gelu"), x)
    np.testing.assert_allclose(gelu, (wide * torch.special.ndtr(wide)).numpy(), rtol=2e-6)
    for cap in (0.5, 1.0, 30.0):
        capped = eager(ops, lambda x, cap=cap: ops.tape.softcap(x, cap), x)
        np.testing.assert_allclose(capped, (cap * torch.tanh(wide / cap)).numpy(), rtol=1e-6)
