"""The native op set against the reference op set, op by op, on every instruction set that this processor has."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eager import SPEC, batch_of, eager, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linnet import _core
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Attention
from linnet.errors import InvalidRequestError, ModelFileError, OutOfMemoryError
from linnet.ops.native import NativeOps, default_threads
from linnet.ops.reference import ReferenceOps
from linnet.ops.sampling import members, sample, set_of
from linnet.tensors import F32, Q4_0, RawTensor

ISAS = _core.available_isas()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window"), [(4, 4, 64, None), (6, 2, 20, None), (3, 1, 33, 40), (8, 1, 128, 7), (2, 2, 1, 1)]
)
def test_attention(isa: str, kv_dtype: str, heads: int, kv_heads: int, head_dim: int, window: int | None) -> None:
    attention = Attention(heads, kv_heads, head_dim, (), head_dim**-0.5, window)
    spec, pages = spec_of(attention), 24
    native, reference = NativeOps(2, isa), ReferenceOps()
    random = np.random.default_rng(1)
    native.allocate_cache(spec, [pages], kv_dtype)
    reference.allocate_cache(spec, [pages], kv_dtype)
    prompts, continuations = [(0, 70), (0, 1), (0, 32)], [(70, 101), (1, 2), (32, 65)]
    table = batch_of([(0, stop) for _, stop in continuations], pages).page_table
    for runs in (prompts, continuations):
        batch = replace(batch_of(runs, pages), page_table=table)
        q, k, v = (random.normal(0, 2, (len(batch.positions), n * head_dim)).astype(np.float32) for n in (heads, kv_heads, kv_heads))
        reference.begin(spec, batch)
        ours = eager(native, lambda q, k, v: native.attend(q, k, v, 0, attention, None), q, k, v, batch=batch, spec=spec)
        # Scores reach 30, so that their rounding moves a weight by 30 float32 epsilons; values reach 8.
        np.testing.assert_allclose(ours, reference.attend(q, k, v, 0, attention, None), rtol=2e-5, atol=3e-5)


def test_values_past_the_range_of_f16_are_kept_finite() -> None:
    attention = Attention(1, 1, 16, (), 0.25)
    ops, batch = NativeOps(1), batch_of([(0, 2)], 1)
    ops.allocate_cache(spec_of(attention), [1], "f16")
    ones = np.ones((2, 16), np.float32)
    values = ones.copy()
    values[1] = 1e6
    out = eager(ops, lambda x, v: ops.attend(x, x, v, 0, attention, None), ones, values, batch=batch)
    np.testing.assert_allclose(out, [[1.0] * 16, [(1 + 65504) / 2] * 16])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dim", "head_dim", "interleaved"), [(64, 64, False), (64, 64, True), (6, 10, False), (6, 11, True)])
def test_rotary(isa: str, dim: int, head_dim: int, interleaved: bool) -> None:
    rope = Rope(dim, 10000.0, 512, interleaved)
    attention = Attention(3, 3, head_dim, (rope,), 1.0)
    native, reference, batch = NativeOps(2, isa), ReferenceOps(), batch_of([(5, 40), (0, 3)], 3)
    reference.begin(spec_of(attention), batch)
    x = np.random.default_rng(2).normal(size=(38, 3 * head_dim)).astype(np.float32)
    ours = eager(native, lambda x: native.rotate(x, rope, head_dim), x, batch=batch)
    np.testing.assert_allclose(ours, reference.rotate(x, rope, head_dim), rtol=1e-6, atol=1e-6)


@st.composite
def logits_of(draw: st.DrawFn) -> NDArray[np.float32]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.normal(0, draw(st.sampled_from([0.0, 0.01, 1.0, 10.0, 100.0])), draw(st.sampled_from([1, 2, 17, 300, 3000, 20000])))
    if draw(st.booleans()):
        values = np.round(values)  # many ties
    values = values.astype(np.float32)
    values[random.random(len(values)) < draw(st.sampled_from([0.0, 0.3]))] = -np.inf
    values[random.integers(len(values))] = 1.0
    return values


@settings(max_examples=300, deadline=None)
@given(
    logits=logits_of(),
    isa=st.sampled_from(ISAS),
    temperature=st.sampled_from([0.0, 1e-300, 0.1, 0.7, 1.0, 5.0, 1e300]),
    top_k=st.sampled_from([0, 1, 5, 256, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    uniform=st.floats(0, 1, exclude_max=True),
    share=st.sampled_from([None, 0.0, 0.01, 0.5, 1.0]),
)
def test_sampling_is_its_definition(
    isa: str, logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float, uniform: float, share: float | None
) -> None:
    inside = None if share is None else np.random.default_rng(len(logits)).random(len(logits)) < share
    allowed = None if inside is None else set_of(np.flatnonzero(inside).tolist(), len(logits))
    ours = NativeOps(1, isa).sample(logits, temperature, top_k, top_p, min_p, uniform, allowed)
    expected = sample(logits, temperature, top_k, top_p, min_p, uniform, allowed)
    if allowed is not None:
        assert (members(allowed, len(logits)) == inside).all()
        assert ours == -1 if not np.isfinite(logits[inside]).any() else inside[ours]
    if ours != expected:  # only where a sum lands on a boundary to within its rounding
        nudges = [(u, p) for u in (-1e-12, 0.0, 1e-12) for p in (-1e-12, 0.0, 1e-12)]
        near = {sample(logits, temperature, top_k, clip(top_p + p, 1.0), min_p, clip(uniform + u, 1 - 1e-16), allowed) for u, p in nudges}
        assert ours in near


@pytest.mark.parametrize("isa", ISAS)
def test_a_draw_from_what_is_no_number_stays_inside_the_vocabulary(isa: str) -> None:
    random, ops = np.random.default_rng(7), NativeOps(1, isa)
    for _ in range(300):
        logits = random.normal(0, 3, random.choice([1, 16, 129, 1000])).astype(np.float32)
        for odd in (np.nan, np.inf, -np.inf):
            logits[random.random(len(logits)) < random.choice([0.0, 0.0, 0.01, 0.5, 1.0])] = odd
        settings = (random.choice([0.0, 1.0]), int(random.choice([0, 1, 40, 500])), random.choice([1.0, 0.5]), random.choice([0.0, 0.1]))
        assert -1 <= ops.sample(logits, *settings, random.random()) < len(logits)


def test_a_set_of_another_size_is_refused() -> None:
    for words in (0, 1, 3):
        with pytest.raises(ValueError, match="a bit for each logit"):
            NativeOps(1).sample(np.zeros(33, np.float32), 1.0, 0, 1.0, 0.0, 0.5, np.zeros(words, np.uint32))


def clip(value: float, high: float) -> float:
    return min(max(value, 0.0), high)


def test_bad_thread_counts_and_instruction_sets_are_named() -> None:
    for threads in (0, -1, 5000):
        with pytest.raises(InvalidRequestError, match=str(threads)):
            NativeOps(threads)
    with pytest.raises(InvalidRequestError, match="avx1024"):
        NativeOps(1, "avx1024")
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_threads_follow_the_quota_of_a_container(tmp_path: Path) -> None:
    cores = default_threads(tmp_path)  # no control group there
    for quota, threads in (("max 100000", cores), ("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", cores)):
        folder = tmp_path / quota.replace(" ", "-") / "sys/fs/cgroup"
        folder.mkdir(parents=True)
        (folder / "cpu.max").write_text(quota + "\n")
        assert default_threads(folder.parents[2]) == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_threads_follow_the_processors_that_are_left_to_the_process() -> None:
    allowed = os.sched_getaffinity(0)
    default_threads()
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_that_lets_go_of_threads_keeps_its_own() -> None:
    """They may stand where those did that the child does not have."""
    program = """
import os
from linnet.ops.native import NativeOps
inherited = NativeOps(4)
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
own = NativeOps(4)
del inherited
del own
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_cache_without_memory_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError, match=r"a KV cache of \d+ pages; lower"):
        NativeOps(1).allocate_cache(SPEC, [2**40], "f32")


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_forces_an_instruction_set(isa: str) -> None:
    program = "from linnet.ops.native import NativeOps; print(NativeOps(1).context.isa)"
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "LINNET_ISA": isa}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == isa


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_rounded_to_a_level(value: float) -> None:
    weights = np.ones((40, 64), np.float32)
    weights[35, 3] = value
    raw = RawTensor("blk.0.w", (40, 64), F32, weights.view(np.uint8).ravel())
    with pytest.raises(ModelFileError, match=r"'blk.0.w', row 35 holds a value that is not finite.*q4_0"):
        NativeOps(2).matrix(raw, Q4_0)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    ops = NativeOps(1)
    ops.allocate_cache(SPEC, [2], "f32")
    table = ops.matrix(RawTensor("table", (5, 16), F32, np.zeros(5 * 16 * 4, np.uint8)))
    good = batch_of([(0, 2)], 2)
    changes: dict[str, dict[str, list[int] | list[list[int]]]] = {
        "a page outside the cache": {"page_table": [[[3]]]},
        "a position past the page table": {"positions": [0, 32]},
        "a token outside the embedding": {"tokens": [0, 5]},
        "a sequence without a row": {"sequence": [0, 1]},
        "a wanted row": {"rows": [2]},
        "differ in length": {"previous": [0]},
    }
    for message, change in changes.items():
        bad = replace(good, **{name: np.array(value, np.int32) for name, value in change.items()})
        with pytest.raises(ValueError, match=message):
            eager(ops, lambda x: ops.add(x, ops.embed(table, "tokens")), np.zeros((2, 16), np.float32), batch=bad)
