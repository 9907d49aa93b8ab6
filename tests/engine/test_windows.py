"""Layers with windows: what none of a group sees is given back, found again where it is still there, and planned for."""

from __future__ import annotations

from dataclasses import replace
from operator import mul

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_model import CONTEXT, mock_engine, mock_logits, request, run, tokens_of
from test_pages import LAYER, SPEC
from test_shared_pages import assert_whole, prompt_of

from linnet.engine.page_plan import LayerGroups, cache_bytes, group_bytes, layer_groups, page_bytes, plan_pages
from linnet.engine.pages import GONE, most_pages
from linnet.engine.session import Session
from linnet.errors import OutOfMemoryError
from linnet.ops.base import PAGE_SIZE


def windowed(*windows: int | None) -> list:
    return [replace(LAYER, mixer=replace(LAYER.attention, window=window)) for window in windows]


def test_layers_that_see_equally_far_are_a_group() -> None:
    mixed = replace(SPEC, layers=tuple(windowed(7, None, 7, 40)))
    assert layer_groups(mixed) == LayerGroups((None, 40, 7), (2, 0, 2, 1))
    assert layer_groups(replace(SPEC, layers=tuple(windowed(7, 40)))) == LayerGroups((40, 7), (1, 0))
    assert layer_groups(replace(SPEC, layers=tuple(windowed(7, 40))), SPEC) == LayerGroups((None, 7), (1, 0))
    assert layer_groups(replace(mixed, bidirectional_prompt=True)) == LayerGroups((None,), (0, 0, 0, 0))
    assert layer_groups(replace(SPEC, layers=())) == LayerGroups((None,), ())
    assert sum(group_bytes(mixed, "q8_0")) == page_bytes(mixed, "q8_0")


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("window", [1, 32, 33, 70])
def test_no_more_is_held_than_is_planned(window: int, chunk: int) -> None:
    engine = mock_engine(windows=(window,), prefill_chunk=chunk, prefix_cache=False)
    r = request(prompt_of(150), max_tokens=50)
    engine.submit(r)
    held = 0
    stream = engine.outputs(r)
    while not r.done:
        engine._drive(lambda: False)
        held = max(held, engine.counters().pages_used)
    assert held <= most_pages(CONTEXT, window, chunk) < CONTEXT / PAGE_SIZE + 1
    assert tokens_of(r, list(stream)) == run(mock_engine(windows=(window,)), request(prompt_of(150), max_tokens=50))
    assert_whole(engine)


def test_more_requests_run_than_their_whole_lengths_have_room_for() -> None:
    engine = mock_engine(windows=(32,), prefill_chunk=32, pages=12, prefix_cache=False)
    requests = [request(prompt_of(150, n), max_tokens=50) for n in range(4)]
    assert run(engine, *requests) == [run(mock_engine(windows=(32,)), request(r.prompt, max_tokens=50))[0] for r in requests]
    assert max(engine.ops.sequences) == 4  # type: ignore[attr-defined]
    assert not engine.scheduler.preemptions
    assert_whole(engine)


def test_a_beginning_is_found_where_only_its_end_is_left() -> None:
    engine = mock_engine(windows=(40,), pages=9)
    run(engine, request(prompt_of(130), max_tokens=1))
    run(engine, request(prompt_of(40, 1), max_tokens=60))  # takes the first of its pages
    again = request([*prompt_of(130), 3], max_tokens=20)
    [group] = engine.pool.groups
    [found], count = engine.scheduler.prefixes.find(_sample(again), 151)  # type: ignore[union-attr]
    assert count == len(found) == 4
    assert found.count(GONE) == (128 - 40) // PAGE_SIZE
    assert all(page == GONE or page in group._names for page in found)
    assert run(engine, again) == run(mock_engine(windows=(40,)), request(again.prompt, max_tokens=20))
    assert again.cached_tokens == 128
    assert_whole(engine)


def _sample(r):  # type: ignore[no-untyped-def]
    return mock_engine()._samples(request(r.prompt, max_tokens=20))[0]


def test_samples_and_recomputed_tokens() -> None:
    engine = mock_engine(windows=(33,), pages=14)
    for options in ({"n": 4}, {"cache": False}):
        found = run(engine, request(prompt_of(120), max_tokens=60, **options))
        assert found == run(mock_engine(windows=(33,), prefix_cache=False), request(prompt_of(120), max_tokens=60, **options))
        assert_whole(engine)


def test_each_group_gives_back_what_it_does_not_see() -> None:
    engine = mock_engine(windows=(None, 70, 33), prefill_chunk=32, prefix_cache=False, pages=(21, 15, 12))
    requests = [request(prompt_of(150, n), max_tokens=50) for n in range(3)]
    assert run(engine, *requests) == [run(mock_engine(), request(r.prompt, max_tokens=50))[0] for r in requests]
    assert max(engine.ops.sequences) == 3  # type: ignore[attr-defined]
    assert not engine.scheduler.preemptions
    assert_whole(engine)


def test_a_group_without_free_pages_has_the_last_give_way() -> None:
    engine = mock_engine(windows=(None, 33), prefill_chunk=32, pages=(40, 5), prefix_cache=False)
    requests = [request(prompt_of(30, n), max_tokens=100) for n in range(3)]
    assert run(engine, *requests) == [run(mock_engine(), request(r.prompt, max_tokens=100))[0] for r in requests]
    assert engine.scheduler.preemptions
    assert_whole(engine)


def test_a_beginning_is_found_where_every_group_has_what_is_seen_of_it() -> None:
    engine = mock_engine(windows=(None, 40), pages=(64, 6))
    run(engine, request(prompt_of(130), max_tokens=1))
    again = request([*prompt_of(130), 3], max_tokens=5)
    assert run(engine, again) == run(mock_engine(), request(again.prompt, max_tokens=5))
    assert again.cached_tokens == 128
    run(engine, request(prompt_of(100, 1), max_tokens=60))  # takes the second group's pages
    late = request([*prompt_of(130), 4], max_tokens=5)
    assert run(engine, late) == run(mock_engine(), request(late.prompt, max_tokens=5))
    assert late.cached_tokens < 128
    assert_whole(engine)


@pytest.mark.parametrize("windows", [(40,), (None, 33, 5)])
def test_a_session_computes_again_what_it_had_given_back(windows: tuple[int | None, ...]) -> None:
    engine = mock_engine(windows=windows, prefill_chunk=16)
    tokens, most = prompt_of(190), [most_pages(CONTEXT, window, 16) for window in windows]
    with Session(engine) as session:
        session.forward(tokens)
        assert engine.counters().pages_used == sum(most)
        for back in (3, 100, 10, CONTEXT):
            session.rollback(min(back, session.length))
            done = len(engine.ops.steps)  # type: ignore[attr-defined]
            there = session.length
            found = session.forward(tokens[there : there + 7])
            assert len(engine.ops.steps) - done <= -(-session.length // 16)  # type: ignore[attr-defined]
            for row, end in zip(found, range(there + 1, session.length + 1), strict=True):
                np.testing.assert_array_equal(row, mock_logits(tokens[:end][-(windows[0] or 0) :], CONTEXT))
            with session.fork() as twin:
                np.testing.assert_array_equal(twin.forward([5]), session.forward([5]))
    assert_whole(engine)


def test_the_plan_counts_what_is_held() -> None:
    spec, each = replace(SPEC, layers=tuple(windowed(64, 64, 64))), page_bytes(SPEC, "f16")
    most = most_pages(1000, 64, 128)
    assert most == 6 + 1
    assert plan_pages(spec, "f16", 1000, 4, None, 0, 2**40, None, 128) == ([4 * most], 1000)
    assert plan_pages(spec, "f16", None, 4, 2 * most * each, prefill_chunk=128) == ([2 * most], 1000)
    assert plan_pages(spec, "f16", None, 4, (most - 1) * each, prefill_chunk=128) == ([most - 1], (most - 1) * PAGE_SIZE)


def test_the_plan_shares_memory_out_among_groups() -> None:
    spec = replace(SPEC, layers=tuple(windowed(64, None, 64)))  # 7 pages of a sequence, and 32
    full, narrow = group_bytes(spec, "f16")
    assert narrow == 2 * full
    one = 32 * full + 7 * narrow
    assert cache_bytes(spec, "f16", 1000, 3, 128) == 3 * one
    assert plan_pages(spec, "f16", 1000, 4, 2**40, prefill_chunk=128) == ([128, 28], 1000)
    assert plan_pages(spec, "f16", 1000, 4, 3 * one, prefill_chunk=128) == ([82, 28], 1000)  # short requests still run at once
    assert plan_pages(spec, "f16", 1000, 4, one, prefill_chunk=128) == ([32, 7], 1000)
    assert plan_pages(spec, "f16", None, 4, one - 1, prefill_chunk=128) == ([31, 7], 31 * PAGE_SIZE)
    assert plan_pages(spec, "f16", None, 4, 5 * (full + narrow), prefill_chunk=128) == ([5, 5], 5 * PAGE_SIZE)
    with pytest.raises(OutOfMemoryError, match=f"takes {one} bytes and {one - 1} are allowed"):
        plan_pages(spec, "f16", 1000, 4, one - 1, prefill_chunk=128)


@given(
    windows=st.lists(st.none() | st.integers(1, 300), min_size=1, max_size=5),
    context=st.none() | st.integers(1, 1000),
    batch=st.integers(1, 6),
    budget=st.integers(0, 2**21),
    chunk=st.integers(1, 512),
)
def test_a_plan_keeps_to_its_budget_and_one_sequence_fits(
    windows: list[int | None], context: int | None, batch: int, budget: int, chunk: int
) -> None:
    spec = replace(SPEC, layers=tuple(windowed(*windows)))
    try:
        pages, planned = plan_pages(spec, "q8_0", context, batch, budget, prefill_chunk=chunk)
    except OutOfMemoryError:
        assert cache_bytes(spec, "q8_0", context or 1, 1, chunk) > budget
        return
    each, seen = group_bytes(spec, "q8_0"), layer_groups(spec).windows
    assert sum(map(mul, pages, each)) <= budget
    most = [most_pages(planned, window, chunk) for window in seen]
    assert all(one <= count <= batch * one for count, one in zip(pages, most, strict=True))
    if any(count < batch * one for count, one in zip(pages, most, strict=True)):
        assert sum(map(mul, pages, each)) + sum(each) > budget  # no page more in every group


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("length", [PAGE_SIZE * 6, PAGE_SIZE * 6 + 40])
def test_a_prompt_that_fills_the_context_is_found_again(length: int, n: int) -> None:
    """Its next token slides: it is not given a page past those of the context."""
    engine = mock_engine(context=PAGE_SIZE * 6, windows=(32,), prefill_chunk=32, slides=True, max_batch=4)
    first, again = (run(engine, request(prompt_of(length), max_tokens=5, n=n)) for _ in range(2))
    assert first == again
    assert_whole(engine)
