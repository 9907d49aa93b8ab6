"""`LLM.submit`: answers that are asked for and not waited for."""

from __future__ import annotations

import gc
import threading

import pytest
from llm_cases import pool_is_whole

from linnet import LLM, CancelledError, ClosedError, DeadlineError, InvalidRequestError, QueueFullError, SamplingParams

LONG = SamplingParams(max_tokens=200, temperature=0.8, seed=3, ignore_eos=True)
SHORT = SamplingParams(max_tokens=12, temperature=0.8, seed=3, ignore_eos=True)


def test_a_handle_gives_what_generate_gives(native: LLM) -> None:
    params = SamplingParams(max_tokens=9, n=3, seed=5, temperature=1.0, ignore_eos=True)
    expected = native.generate("Once upon", params)
    handle = native.submit("Once upon", params)
    found = handle.result()
    assert [(c.index, c.text, c.token_ids) for c in found] == [(c.index, c.text, c.token_ids) for c in expected]
    assert handle.done
    for _ in range(2):  # iterating again starts anew
        chunks = list(handle)
        assert sorted(t for c in chunks for t in c.token_ids) == sorted(t for c in expected for t in c.token_ids)
    assert handle.result() == found


def test_one_that_nobody_reads_goes_on_while_others_are_read(native: LLM) -> None:
    unread = native.submit("Hello", SHORT)
    native.generate("Hi", LONG)
    assert unread.done
    assert unread.result(timeout=0)[0].token_ids == native.generate("Hello", SHORT)[0].token_ids


def test_threads_share_handles(native: LLM) -> None:
    expected = native.generate("Hello", SHORT)[0].token_ids
    handles = [native.submit("Hello", SHORT) for _ in range(4)]
    found: list[list[int]] = []

    def read(iterate: bool) -> None:
        for handle in handles:
            found.append([t for c in handle for t in c.token_ids] if iterate else handle.result(60)[0].token_ids)

    threads = [threading.Thread(target=read, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == [expected] * 16
    assert pool_is_whole(native)


def test_cancelling(native: LLM) -> None:
    handle = native.submit("Hello", LONG)
    next(iter(handle))
    handle.cancel()
    handle.cancel()
    assert handle.done
    for use in (handle.result, lambda: list(handle)):
        with pytest.raises(CancelledError):
            use()
    done = native.submit("Hello", SHORT)
    result = done.result()
    done.cancel()
    assert done.result() == result
    assert pool_is_whole(native)


def test_one_that_nobody_has_is_cancelled(native: LLM) -> None:
    handle = native.submit("Hello", LONG)
    next(iter(handle))
    request = handle._request
    del handle
    gc.collect()
    assert request.done
    assert pool_is_whole(native)


def test_waiting_and_running_have_their_times(native: LLM) -> None:
    handle = native.submit("Hello", LONG)
    with pytest.raises(DeadlineError, match="it goes on"):
        handle.result(timeout=0)
    assert len(handle.result()[0].token_ids) == 200
    with pytest.raises(TimeoutError, match="timeout of 0 seconds"):
        native.generate("Hello", SamplingParams(timeout=0))


def test_what_cannot_be_honoured_is_refused_at_once() -> None:
    with LLM("tiny", max_batch=1, max_queue=0) as llm:
        with pytest.raises(InvalidRequestError, match="is outside"):
            llm.submit([10**6])
        handle = llm.submit("Hello", SHORT)
        with pytest.raises(QueueFullError):
            llm.submit("Hello", SHORT)
        handle.cancel()
        with pytest.raises(QueueFullError):
            llm.generate(["Hello", "Goodbye"], SHORT)  # of which the first is given up again
        handle = llm.submit("Hello", SHORT)
        assert len(handle.result()[0].token_ids) == 12
        waiting = llm.submit("Hello", SHORT)
    with pytest.raises(ClosedError):
        waiting.result()
    with pytest.raises(ClosedError):
        llm.submit("Hello", SHORT)


def test_cached_tokens_are_reported() -> None:
    prompt = list(range(5, 75))
    with LLM("tiny") as llm:
        counts = [llm.generate(prompt, SHORT)[0].usage.cached_tokens for _ in range(2)]
        assert llm.generate(prompt, SHORT, cache=False)[0].usage.cached_tokens == 0
    assert counts == [0, 64]
    with LLM("tiny", prefix_cache=False) as llm:
        assert [llm.generate(prompt, SHORT)[0].usage.cached_tokens for _ in range(2)] == [0, 0]
