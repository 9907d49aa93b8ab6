"""A tape of the native op set: replayed for any batch it gives what recording anew gives, and what its ops give one at a time."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eager import Floats, eager, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Program, perform, programs, spec_of_program

from linnet.arch.spec import Attention
from linnet.errors import OutOfMemoryError
from linnet.forward import forward
from linnet.load.encode import encode
from linnet.load.random_weights import open_random
from linnet.ops.base import PAGE_SIZE, Batch, Step
from linnet.ops.native import NativeOps, frequencies_of_requests
from linnet.ops.reference import ReferenceOps
from linnet.tensors import F16, F32, Q4_0, Q8_0, RawTensor, TensorType

SEQUENCES, LONGEST = 3, 96
WIDEST = LONGEST // PAGE_SIZE
VOCABULARY = 50


@dataclass(frozen=True)
class Feed:
    """One step: how many rows of each sequence, and whose logits are wanted."""

    counts: tuple[int, ...]
    wanted: str


FEEDS = st.builds(Feed, st.tuples(*[st.sampled_from([0, 0, 1, 1, 2, 5, 33])] * SEQUENCES), st.sampled_from(["none", "last", "all", "some"]))


def batches_of(feeds: Iterable[Feed], prompts: tuple[int, ...] = (7, 40, 1)) -> list[Batch]:
    """The batches of those steps, of sequences whose pages are scattered; what does not fit the longest is left out."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCABULARY, (SEQUENCES, LONGEST)).astype(np.int32)
    table = random.permutation(SEQUENCES * WIDEST).astype(np.int32).reshape(1, SEQUENCES, WIDEST)
    done, made = [0] * SEQUENCES, []
    for feed in feeds:
        counts = [min(count, LONGEST - start) for count, start in zip(feed.counts, done, strict=True)]
        sequence = np.repeat(np.arange(SEQUENCES, dtype=np.int32), counts)
        positions = np.concatenate([np.arange(start, start + count) for start, count in zip(done, counts, strict=True)]).astype(np.int32)
        previous = np.where(positions > 0, tokens[sequence, positions - 1], -1).astype(np.int32)
        ends = np.cumsum(counts)[np.array(counts) > 0] - 1
        every = np.arange(len(positions))
        rows = {"none": every[:0], "last": ends, "all": every, "some": every[1::3]}[feed.wanted].astype(np.int32)
        lengths = np.array([LONGEST, 20, 150], np.int32)  # of requests: past a rope's context, and within it
        made.append(Batch(tokens[sequence, positions], positions, previous, sequence, table, lengths, np.array(prompts, np.int32), rows))
        done = [start + count for start, count in zip(done, counts, strict=True)]
    return made


# ---- whole models
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "dynamic": {"max_position_embeddings": 24, "rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "one expert": {"model_type": "mixtral", "num_local_experts": 1, "num_experts_per_tok": 1, "sliding_window": None},
}
POOLS = [(1, 1), (2, 2), (3, 1), (1, 2)]
"""Threads of decoding and of prompts."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("type", [F32, F16, Q8_0, Q4_0])
def test_eager_and_replay_give_the_same_bits(name: str, type: TensorType, tmp_path: Path) -> None:
    """Recorded for every step, or once and replayed: for prompts, pieces of them, decoding and steps of all, on any threads."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | MODELS[name]))
    checkpoint = open_random(tmp_path, type)
    random = np.random.default_rng(1)
    feeds = [Feed((33, 0, 0), "none"), Feed((1, 40, 0), "last"), Feed((1, 1, 1), "all"), Feed((1, 1, 1), "last")]
    feeds += [Feed(tuple(random.choice([0, 1, 1, 6], SEQUENCES).tolist()), str(random.choice(["last", "all", "some"]))) for _ in range(8)]
    batches = batches_of([*feeds, Feed((1, 0, 0), "last"), Feed((0, 0, 0), "all")])
    expected: list[Floats] | None = None
    for threads, prefill_threads in POOLS:
        for pack in (True, False):
            ops = NativeOps(threads, prefill_threads=prefill_threads, pack=pack)
            build = partial(forward, ops, checkpoint.spec, checkpoint.assemble(ops))
            replayed = ops.stepper(checkpoint.spec, build)
            for anew in (False, True):
                ops.allocate_cache(checkpoint.spec, [SEQUENCES * WIDEST], "f16")
                made = [(ops.stepper(checkpoint.spec, build) if anew else replayed)(batch) for batch in batches]
                expected = expected or made
                assert [len(logits) for logits in made] == [len(batch.rows) for batch in batches]
                for ours, first in zip(made, expected, strict=True):
                    np.testing.assert_array_equal(ours, first)


# ---- any ops in any order
@settings(max_examples=60, deadline=None)
@given(program=programs(VOCABULARY, LONGEST), feeds=st.lists(FEEDS, min_size=1, max_size=3), threads=st.sampled_from([1, 2]))
def test_a_tape_gives_what_its_ops_give_one_at_a_time(program: Program, feeds: list[Feed], threads: int) -> None:
    """Every value of a random tape, whichever is asked for, with the bits that its op has by itself; and as the reference says."""
    spec = spec_of_program(program)
    together, alone, reference = NativeOps(threads), alone_ops(), ReferenceOps()
    for ops in (together, alone, reference):
        ops.allocate_cache(spec, [SEQUENCES * WIDEST], "f32")
    together.begin(spec)
    values: list[int] = []
    for step in program:
        values.append(perform(together, step, [values[i] for i in step.inputs]))
    for batch in batches_of(feeds):
        made = [run(together, value, batch) for value in values]
        np.testing.assert_array_equal(run(together, values[-1], batch), made[-1])
        reference.begin(spec, batch)
        for step, ours in zip(program, made, strict=True):
            inputs = [made[i] for i in step.inputs]
            assert ours.shape == (len(batch.rows) if step.wanted else len(batch.tokens), step.width)
            if not len(ours):
                continue
            beside = batch if not step.wanted or step.op == "take" else only_rows(batch)
            by_itself = eager(alone, lambda *x, step=step: perform(alone, step, list(x)), *inputs, batch=beside, spec=spec)
            np.testing.assert_array_equal(ours, by_itself)
            if step.exact:
                expected = perform(reference, step, inputs)
                np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * max(1e-3, float(np.abs(expected).max())))


@cache
def alone_ops() -> NativeOps:
    return NativeOps(1)


def only_rows(batch: Batch) -> Batch:
    """The rows wanted as a batch, for ops that look at nothing but their inputs."""
    positions = np.arange(len(batch.rows), dtype=np.int32) % LONGEST
    sequence = np.arange(len(batch.rows), dtype=np.int32) // LONGEST
    return replace(batch, tokens=positions * 0, positions=positions, previous=positions * 0, sequence=sequence, rows=positions[:0])


def run(ops: NativeOps, value: int, batch: Batch) -> Floats:
    rotations = [frequencies_of_requests(rope, batch.rope_lengths) for rope in ops.varying]
    arrays = (batch.tokens, batch.positions, batch.previous, batch.sequence, batch.page_table, batch.prompt_lengths, batch.rows)
    made: Floats = ops.tape.run(value, ops.cache, *arrays, rotations)
    return made


# ---- lives and failures
def test_a_tape_that_has_run_takes_more_work() -> None:
    ops, batch = NativeOps(1), batches_of([Feed((2, 3, 0), "all")])[0]
    ops.begin(spec_of(Attention(1, 1, 8, (), 1.0)))
    x = ops.tape.constant(np.arange(40, dtype=np.float32).reshape(5, 8))
    twice = ops.scale(x, 2.0)
    first = run(ops, twice, batch)
    more = ops.add(twice, x)
    np.testing.assert_array_equal(run(ops, more, batch), 1.5 * first)
    np.testing.assert_array_equal(run(ops, twice, batch), first)
    np.testing.assert_array_equal(run(ops, more, batch), 1.5 * first)


def test_weights_go_with_the_step_that_runs_them() -> None:
    """Though the op set stays: an engine that is closed gives its weights back."""
    ops, batch, spec = NativeOps(1), batches_of([Feed((2, 0, 0), "all")])[0], spec_of(Attention(1, 1, 8, (), 1.0))

    def made() -> tuple[Step, weakref.ref[Any]]:
        data = encode(np.ones((5, 8), np.float32), F32).reshape(-1)
        matrix = ops.matrix(RawTensor("w", (5, 8), F32, data))
        return ops.stepper(spec, lambda: ops.linear(ops.tape.constant(np.ones((2, 8), np.float32)), matrix, None)), weakref.ref(data)

    step, data = made()
    for _ in range(2):  # the second time nothing but the tape has the matrix
        np.testing.assert_array_equal(step(batch), np.full((2, 5), 8.0))
    del step
    gc.collect()
    assert data() is None


@pytest.mark.skipif("LINNET_TEST_CORE" in os.environ, reason="sanitizers end the process where there is no memory")
def test_a_step_without_memory_is_an_error_and_harms_nothing() -> None:
    spec, (some, none) = spec_of(Attention(1, 1, 8, (), 1.0)), batches_of([Feed((2, 0, 0), "all"), Feed((0, 0, 0), "all")])
    ops = NativeOps(1)

    def build() -> int:
        x: int = ops.tape.constant(np.ones((2, 64), np.float32))
        for _ in range(39):  # wider than addresses are
            x = ops.append_shared(x, x, 1)
        return ops.columns(x, 0, 8)

    step = ops.stepper(spec, build)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError, match=r"a step of 2 tokens.*prefill_chunk"):
            step(some)
        assert step(none).shape == (0, 8)


def test_bad_batches_and_caches_are_refused_and_harm_nothing() -> None:
    attention = Attention(2, 1, 8, (), 1.0)
    spec = spec_of(attention)
    ops, good = NativeOps(2), batches_of([Feed((5, 0, 0), "all")])[0]
    x = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    ops.begin(replace(spec, bidirectional_prompt=True))
    value = ops.tape.constant(x)
    q, k, v = (ops.columns(value, start, count) for start, count in ((0, 16), (16, 8), (24, 8)))
    result = ops.attend(q, k, v, 0, attention, None)
    with pytest.raises(ValueError, match="no cache"):
        run(ops, result, good)
    ops.allocate_cache(spec_of(Attention(2, 2, 8, (), 1.0)), [SEQUENCES * WIDEST], "f32")
    with pytest.raises(ValueError, match="cache of another shape"):
        run(ops, result, good)
    ops.allocate_cache(spec, [SEQUENCES * WIDEST], "f32")
    expected = run(ops, result, good)
    unordered = replace(good, positions=np.array([40, 1, 2, 3, 4], np.int32))
    with pytest.raises(ValueError, match="do not ascend"):
        run(ops, result, unordered)
    with pytest.raises(ValueError, match="a prompt past the page table"):
        run(ops, result, replace(good, prompt_lengths=np.full(SEQUENCES, LONGEST + PAGE_SIZE, np.int32)))
    missing = good.page_table.copy()
    missing[0, 0, 1] = -1
    with pytest.raises(ValueError, match="a page outside the cache"):
        run(ops, result, replace(good, page_table=missing, prompt_lengths=np.full(SEQUENCES, 40, np.int32)))
    with pytest.raises(ValueError, match="more rows than a constant"):
        run(ops, result, batches_of([Feed((5, 1, 0), "all")])[0])
    np.testing.assert_array_equal(run(ops, result, good), expected)


def test_ops_refuse_rows_of_another_kind() -> None:
    ops = NativeOps(1)
    attention = Attention(1, 1, 8, (), 1.0)
    ops.begin(spec_of(attention))
    x = ops.tape.constant(np.ones((2, 8), np.float32))
    wanted = ops.take(x)
    refused: list[Callable[[], Any]] = [
        lambda: ops.add(x, wanted),
        lambda: ops.gate(x, wanted, "silu"),
        lambda: ops.weigh(wanted, x),
        lambda: ops.append_shared(x, wanted, 1),
        lambda: ops.take(wanted),
        lambda: ops.attend(x, x, wanted, 0, attention, None),
    ]
    for op in refused:
        with pytest.raises(ValueError, match="wanted"):
            op()


def test_weights_that_are_no_plain_bytes_are_refused() -> None:
    """A copy made in passing would be gone when the matrix reads it."""
    ops = NativeOps(1)
    scattered = np.zeros(2 * 5 * 8 * 4, np.uint8)[::2]
    with pytest.raises(TypeError):
        ops.matrix(RawTensor("w", (5, 8), F32, scattered))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_threads_that_the_system_does_not_start_are_an_error() -> None:
    program = """
import resource
from linnet.errors import InvalidRequestError
from linnet.ops.native import NativeOps
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28,) * 2)
for threads, prefill_threads in ((1000, 1000), (1, 1000)):
    try:
        NativeOps(threads, prefill_threads=prefill_threads)
    except InvalidRequestError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.count("of 1000 threads") == 2
