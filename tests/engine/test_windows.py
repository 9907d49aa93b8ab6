"""Where every layer has a window: what none of them sees is given back, found again where it is still there, and planned for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mock_model import CONTEXT, mock_engine, request, run, tokens_of
from test_pages import LAYER, SPEC
from test_shared_pages import assert_whole, prompt_of

from linnet.engine.pages import GONE, common_window, most_pages, page_bytes, plan_pages
from linnet.ops.base import PAGE_SIZE


def windowed(*windows: int | None) -> list:
    return [replace(LAYER, attention=replace(LAYER.attention, window=window)) for window in windows]


def test_the_widest_window_counts_and_one_layer_without_keeps_all() -> None:
    assert common_window(replace(SPEC, layers=tuple(windowed(7, 40, 7))), None) == 40
    assert common_window(replace(SPEC, layers=tuple(windowed(7, None, 7))), None) is None
    assert common_window(replace(SPEC, layers=tuple(windowed(7)), bidirectional_prompt=True), None) is None
    assert common_window(replace(SPEC, layers=()), None) is None


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("window", [1, 32, 33, 70])
def test_no_more_is_held_than_is_planned(window: int, chunk: int) -> None:
    engine = mock_engine(window=window, prefill_chunk=chunk, prefix_cache=False)
    r = request(prompt_of(150), max_tokens=50)
    engine.submit(r)
    held = 0
    stream = engine.outputs(r)
    while not r.done:
        engine._drive(lambda: False)
        held = max(held, engine.counters().pages_used)
    assert held <= most_pages(CONTEXT, window, chunk) < CONTEXT / PAGE_SIZE + 1
    assert tokens_of(r, list(stream)) == run(mock_engine(window=window), request(prompt_of(150), max_tokens=50))
    assert_whole(engine)


def test_more_requests_run_than_their_whole_lengths_have_room_for() -> None:
    engine = mock_engine(window=32, prefill_chunk=32, pages=12, prefix_cache=False)
    requests = [request(prompt_of(150, n), max_tokens=50) for n in range(4)]
    assert run(engine, *requests) == [run(mock_engine(window=32), request(r.prompt, max_tokens=50))[0] for r in requests]
    assert max(engine.ops.sequences) == 4  # type: ignore[attr-defined]
    assert not engine.scheduler.preemptions
    assert_whole(engine)


def test_a_beginning_is_found_where_only_its_end_is_left() -> None:
    engine = mock_engine(window=40, pages=9)
    run(engine, request(prompt_of(130), max_tokens=1))
    run(engine, request(prompt_of(40, 1), max_tokens=60))  # takes the first of its pages
    again = request([*prompt_of(130), 3], max_tokens=20)
    pool = engine.pool
    found = engine.scheduler.prefixes.find(_sample(again), 151)  # type: ignore[union-attr]
    assert found.count(GONE) == (128 - 40) // PAGE_SIZE
    assert all(page == GONE or page in pool._names for page in found)
    assert run(engine, again) == run(mock_engine(window=40), request(again.prompt, max_tokens=20))
    assert again.cached_tokens == 128
    assert_whole(engine)


def _sample(r):  # type: ignore[no-untyped-def]
    return mock_engine()._samples(request(r.prompt, max_tokens=20))[0]


def test_samples_and_recomputed_tokens() -> None:
    engine = mock_engine(window=33, pages=14)
    for options in ({"n": 4}, {"cache": False}):
        found = run(engine, request(prompt_of(120), max_tokens=60, **options))
        assert found == run(mock_engine(window=33, prefix_cache=False), request(prompt_of(120), max_tokens=60, **options))
        assert_whole(engine)


def test_the_plan_counts_what_is_held() -> None:
    spec, each = replace(SPEC, layers=tuple(windowed(64, 64, 64))), page_bytes(SPEC, "f16")
    most = most_pages(1000, 64, 128)
    assert most == 6 + 1
    assert plan_pages(spec, "f16", 1000, 4, None, 0, 2**40, None, 128) == (4 * most, 1000)
    assert plan_pages(spec, "f16", None, 4, 2 * most * each, prefill_chunk=128) == (2 * most, 1000)
    assert plan_pages(spec, "f16", None, 4, (most - 1) * each, prefill_chunk=128) == (most - 1, (most - 1) * PAGE_SIZE)
