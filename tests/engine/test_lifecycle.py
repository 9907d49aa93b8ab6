"""Priorities, deadlines and the bounded queue."""

from __future__ import annotations

import time

import pytest
from mock_model import mock_engine, request, run, tokens_of

from linnet.engine.engine import PRIORITY_PLACES
from linnet.errors import DeadlineError, QueueFullError


def served(engine_options: dict, priorities: list[int]) -> list[int]:
    """The order in which requests of these priorities, submitted at once, have their first tokens."""
    engine = mock_engine(max_batch=1, **engine_options)
    order: list[int] = []
    requests = [request([1, 2], max_tokens=2, priority=priority) for priority in priorities]
    for index, r in enumerate(requests):
        engine.submit(r)
        r.stop_rule = lambda sample, token, index=index: order.append(index)  # type: ignore[assignment,misc,return-value]
    for r in requests:
        list(engine.outputs(r))
    return order[::2]


def test_smaller_priorities_run_earlier_and_equal_ones_in_turn() -> None:
    assert served({}, [1, 0, 0, -5, 1]) == [3, 1, 2, 0, 4]


def test_no_priority_waits_for_ever() -> None:
    order = served({}, [1] + [0] * (PRIORITY_PLACES + 20))
    assert order.index(0) == PRIORITY_PLACES - 1


def test_the_lowest_priority_gives_way_first() -> None:
    engine = mock_engine(pages=7, prefix_cache=False)
    low, high = request([1] * 30, max_tokens=120, priority=1), request([2] * 30, max_tokens=120)
    run(engine, low, high)
    assert engine.scheduler.preemptions
    alone = [run(mock_engine(), request([n] * 30, max_tokens=120))[0] for n in (1, 2)]
    assert [low.sequences[0].tokens[30:], high.sequences[0].tokens[30:]] == alone


def test_a_request_ends_at_its_deadline_and_no_other() -> None:
    engine = mock_engine()
    late = request([1], max_tokens=150, timeout=0.05, choose=lambda logits: time.sleep(0.01) or 3)
    other = request([2], max_tokens=150, timeout=1000.0)
    engine.submit(late)
    engine.submit(other)
    answer = tokens_of(other, list(engine.outputs(other)))
    with pytest.raises(DeadlineError, match="within its timeout"):
        list(engine.outputs(late))
    assert answer == run(mock_engine(), request([2], max_tokens=150))
    with pytest.raises(DeadlineError):
        run(engine, request([1], timeout=0.0))
    assert engine.pool.free_count == engine.pool.count


def test_the_queue_is_bounded_and_its_neighbours_are_not_disturbed() -> None:
    engine = mock_engine(max_batch=2, max_queue=1)
    requests = [request([n], max_tokens=5) for n in range(3)]
    for r in requests:
        engine.submit(r)
    with pytest.raises(QueueFullError, match="3 requests run or wait"):
        engine.submit(request([9], max_tokens=5))
    for r in requests:
        assert tokens_of(r, list(engine.outputs(r))) == run(mock_engine(), request(r.prompt, max_tokens=5))
    assert len(run(engine, request([9], max_tokens=5))[0]) == 5


def test_what_is_cancelled_before_its_first_step_leaves_the_queue() -> None:
    engine = mock_engine(max_batch=2, max_queue=1)
    for _ in range(3):
        requests = [request([n], max_tokens=5) for n in range(3)]
        for r in requests:
            engine.submit(r)
        assert engine.counters().waiting == 3
        for r in requests:
            engine.cancel(r)
        assert engine.counters().waiting == 0
    assert len(run(engine, request([9], max_tokens=5))[0]) == 5
