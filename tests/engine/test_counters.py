"""Counters say what happened, and add up."""

from __future__ import annotations

import pytest
from mock_model import mock_engine, request, run

from linnet.engine.counters import Counters
from linnet.errors import DeadlineError, QueueFullError


def assert_they_add_up(counters: Counters) -> None:
    """What holds at any moment, whatever happened."""
    assert sum(counters.outcomes.values()) == counters.request_seconds.count <= counters.submitted
    assert counters.first_token_seconds.count + counters.inter_token_seconds.count == counters.generated_tokens
    assert counters.queue_seconds.count <= counters.submitted
    assert counters.cached_tokens <= counters.prompt_tokens
    assert counters.batch_sizes.count == counters.step_seconds.count
    assert 0.0 <= counters.forward_seconds <= counters.step_seconds.total
    assert counters.accepted_tokens <= counters.drafted_tokens
    assert 0 <= counters.pages_used <= counters.pages - counters.pages_cached


def test_every_outcome_is_counted() -> None:
    engine = mock_engine(max_batch=2, max_queue=1, prefix_cache=False)
    assert engine.counters().submitted == engine.counters().pages_used == 0
    run(engine, request([1, 2, 3], max_tokens=5, n=2), request([4], max_tokens=0))
    with pytest.raises(DeadlineError):
        run(engine, request([1], timeout=0.0))
    with pytest.raises(ZeroDivisionError):
        run(engine, request([1, 2], choose=lambda logits: 1 // 0))
    cancelled = request([1], max_tokens=9)
    engine.submit(cancelled)
    stream = engine.outputs(cancelled)
    assert [next(stream).token_id is not None for _ in range(3)]
    for waiting in (request([5], max_tokens=3), request([6], max_tokens=3)):
        engine.submit(waiting)
    with pytest.raises(QueueFullError):
        engine.submit(request([7]))
    now = engine.counters()
    assert (now.running, now.waiting, now.pages_used) == (1, 2, 1)
    stream.close()
    found = engine.counters()
    assert found.outcomes == {"finished": 2, "timed_out": 1, "failed": 1, "cancelled": 1}
    assert (found.submitted, found.refused, found.running, found.waiting) == (7, 1, 0, 2)
    assert found.finish_reasons == {"stop": 0, "length": 3}
    assert found.generated_tokens == 2 * 5 + 3
    assert found.first_token_seconds.count == 3
    assert found.prompt_tokens == 3 + 1 + 2 + 1
    assert found.queue_seconds.count == 4
    assert_they_add_up(found)


def test_steps_and_their_sizes() -> None:
    engine = mock_engine(max_batch=4)
    run(engine, *[request([n] * 40, max_tokens=3) for n in range(4)])
    found = engine.counters()
    assert found.batch_sizes.total == sum(engine.ops.sequences)  # type: ignore[attr-defined]
    assert found.batch_sizes.count == len(engine.ops.steps)  # type: ignore[attr-defined]
    assert (found.pages_used, found.pages_cached) == (0, 4)
    run(engine, request([0] * 40, max_tokens=3))
    assert engine.counters().cached_tokens == 32
    assert_they_add_up(engine.counters())


def test_buckets_hold_their_upper_bounds() -> None:
    engine = mock_engine(max_batch=4)
    run(engine, *[request([n], max_tokens=3) for n in range(3)])
    sizes = engine.counters().batch_sizes
    assert dict(zip(sizes.bounds, sizes.counts, strict=False))[4.0] == 3  # three at once count as at most four, more than two


def test_preemptions_are_counted() -> None:
    engine = mock_engine(pages=7, prefix_cache=False)
    run(engine, *[request([n] * 30, max_tokens=120) for n in range(3)])
    assert engine.counters().preemptions == engine.scheduler.preemptions > 0
    assert engine.counters().queue_seconds.count == 3  # going on is no new start
