"""What goes wrong in a request or a step: callables that fail, interrupts at the worst moments, closing while others wait."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
import pytest
from mock_model import CONTEXT, VOCAB, MockOps, mock_engine, request, run, tokens_of

from linnet.engine.engine import Engine
from linnet.engine.turns import Turns
from linnet.errors import ClosedError, InvalidRequestError, LinnetError, OutOfMemoryError

PROMPTS = [[int(t) for t in np.random.default_rng(n).integers(0, VOCAB, n)] for n in (1, 2, 7, 31, 32, 33, 64, 100)]


@pytest.mark.parametrize("hook", ["logits_processor", "choose", "stop_rule", "prompt_logits"])
def test_a_failing_callable_fails_its_own_request(hook: str) -> None:
    def boom(*arguments: object) -> object:
        raise RuntimeError("boom")

    engine = mock_engine()
    victim = request(PROMPTS[2], max_tokens=30)
    engine.submit(victim)
    bad = request([3, 4], max_tokens=5, n=2, **({hook: boom} if hook in ("logits_processor", "choose") else {}))
    if hook in ("stop_rule", "prompt_logits"):
        setattr(bad, hook, boom)
    engine.submit(bad)
    with pytest.raises(RuntimeError, match="boom"):
        list(engine.outputs(bad))
    assert tokens_of(victim, list(engine.outputs(victim))) == run(mock_engine(), request(PROMPTS[2], max_tokens=30))
    assert engine.pool.free_count == engine.pool.count


@pytest.mark.parametrize("bad", [-1, VOCAB, 1.5, None, "3"])
def test_choose_must_give_a_token(bad: object) -> None:
    with pytest.raises(InvalidRequestError, match="choose gave"):
        run(mock_engine(), request([1], choose=lambda logits: bad))


def test_a_failing_step_fails_its_requests_and_not_the_engine() -> None:
    engine = mock_engine()
    ops: MockOps = engine.ops  # type: ignore[assignment]
    ops.fail = MemoryError("no memory")
    with pytest.raises(OutOfMemoryError, match=r"memory ran out in a step \(no memory\), with \d+ bytes .* lower max_batch"):
        run(engine, request([1], max_tokens=3))
    ops.fail = None
    assert run(engine, request([1], max_tokens=3)) == run(mock_engine(), request([1], max_tokens=3))
    assert engine.pool.free_count == engine.pool.count


def test_an_interrupt_ends_one_request_and_not_the_engine() -> None:
    def interrupt(logits: np.ndarray) -> int:
        raise KeyboardInterrupt

    engine = mock_engine()
    other = request(PROMPTS[2], max_tokens=30)
    engine.submit(other)
    with pytest.raises(KeyboardInterrupt):
        run(engine, request([1], choose=interrupt))
    assert tokens_of(other, list(engine.outputs(other))) == run(mock_engine(), request(PROMPTS[2], max_tokens=30))
    assert engine.pool.free_count == engine.pool.count


def test_an_interrupt_in_the_turn_of_another_fails_whose_token_was_half_taken() -> None:
    """Ctrl-C comes to the thread that runs the step, wherever that is; the request must end, not wait for a token for ever."""

    def interrupt(logits: np.ndarray) -> int:
        raise KeyboardInterrupt

    engine = mock_engine()
    struck = request([1], choose=interrupt)
    engine.submit(struck)
    with pytest.raises(KeyboardInterrupt):
        run(engine, request(PROMPTS[2], max_tokens=30))
    with pytest.raises(LinnetError, match="interrupted"):
        list(engine.outputs(struck))
    assert engine.pool.free_count == engine.pool.count


def test_an_interrupt_while_the_turn_is_given_up_leaves_the_engine_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Engine) -> None:
        raise KeyboardInterrupt

    engine = mock_engine()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_end_turn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(engine, request([1], max_tokens=5))
    assert run(engine, request([2], max_tokens=5)) == run(mock_engine(), request([2], max_tokens=5))
    assert engine.pool.free_count == engine.pool.count
    engine.close()


def test_a_callable_that_calls_back_gets_an_error_and_no_deadlock() -> None:
    engine = mock_engine()
    with pytest.raises(LinnetError, match="wait for itself"):
        run(engine, request([1], logits_processor=lambda tokens, logits: run(engine, request([2]))))
    assert len(run(engine, request([1], max_tokens=3))[0]) == 3


def test_close_ends_what_runs() -> None:
    engine = mock_engine()
    r = request([1], max_tokens=50)
    engine.submit(r)
    stream = engine.outputs(r)
    next(stream)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        list(stream)
    with pytest.raises(ClosedError):
        engine.submit(request([1]))


def test_close_does_not_wait_for_the_last_token_of_another_thread() -> None:
    started, pause = threading.Event(), threading.Event()

    def choose(logits: np.ndarray) -> int:
        started.set()
        pause.wait(0.01)
        return 3

    engine = mock_engine()
    r = request([1], max_tokens=CONTEXT - 1, choose=choose)
    errors: list[Exception] = []

    def drive() -> None:
        try:
            run(engine, r)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    started.wait()
    engine.close()
    thread.join()
    assert len(errors) == 1
    assert r.sequences[0].generated < CONTEXT - 1


def test_whoever_closes_second_waits_for_the_step_too() -> None:
    """As soon as `close` returns, its caller may free what a step computes with."""
    inside, resume = threading.Event(), threading.Event()

    def choose(logits: np.ndarray) -> int:
        inside.set()
        resume.wait()
        return 3

    def drive() -> None:
        with suppress(ClosedError):
            run(engine, request([1], max_tokens=5, choose=choose))

    def close() -> None:
        engine.close()
        resumed.append(resume.is_set())

    engine, resumed = mock_engine(), list[bool]()
    threads = [threading.Thread(target=drive), *(threading.Thread(target=close) for _ in range(2))]
    threads[0].start()
    inside.wait()
    for thread in threads[1:]:
        thread.start()
    threads[-1].join(0.2)  # time to return too early; how long it is decides nothing where it waits
    resume.set()
    for thread in threads:
        thread.join()
    assert resumed == [True, True]


def test_closing_that_was_interrupted_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Turns) -> None:
        raise KeyboardInterrupt

    engine = mock_engine()
    r = request([1], max_tokens=50)
    engine.submit(r)
    with monkeypatch.context() as patch:
        patch.setattr(Turns, "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.close()
    engine.close()
    assert isinstance(r.error, ClosedError)
    assert engine.pool.free_count == engine.pool.count


def test_draining_from_a_callable_is_refused_and_changes_nothing() -> None:
    engine = mock_engine()
    with pytest.raises(LinnetError, match="wait for itself"):
        run(engine, request([1], max_tokens=5, choose=lambda logits: engine.drain()))
    assert len(run(engine, request([1], max_tokens=5))[0]) == 5


def test_an_interrupt_in_what_was_left_to_be_done_gives_the_turn_up() -> None:
    """Else every other thread would wait for one that may never come back."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    done: list[str] = []
    turns = Turns()
    assert turns.take(lambda: False)
    turns.leave(interrupt)
    turns.leave(lambda: done.append("the errand after it"))
    with pytest.raises(KeyboardInterrupt):
        turns.give_up()
    assert not turns.mine
    assert turns.take(lambda: False)
    turns.give_up()
    assert done == ["the errand after it"]
