"""`LLM.session`: the same logits as all at once, whatever came before, beside requests that are not disturbed."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_cases import pool_is_whole

from linnet import LLM, ClosedError, ContextLengthError, InvalidRequestError, OutOfMemoryError, SamplingParams

TOKENS = [int(token) for token in np.random.default_rng(3).integers(5, 250, 200)]
GREEDY = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)


def test_pieces_give_the_logits_of_the_whole(llm: LLM) -> None:
    expected = llm.logits(TOKENS[:70])
    with llm.session() as session:
        pieces = [session.forward(TOKENS[start:end]) for start, end in ((0, 1), (1, 33), (33, 64), (64, 70))]
        np.testing.assert_array_equal(np.concatenate(pieces), expected)
        assert session.token_ids == TOKENS[:70]
        session.rollback(30)
        np.testing.assert_array_equal(session.forward(np.array(TOKENS[40:70]), last=2), expected[-2:])
        assert session.forward(TOKENS[70:72], last=0).shape == (0, llm.spec.vocab_size)
    assert pool_is_whole(llm)


def test_greedy_by_hand_is_generate(native: LLM) -> None:
    prompt = native.tokenize("Once upon a time")
    with native.session(capacity=len(prompt) + 30) as session:
        logits = session.forward(prompt)
        for _ in range(30):
            logits = session.forward([int(logits[-1].argmax())]) if session.length < session.capacity else logits
        assert session.token_ids[len(prompt) :] == native.generate("Once upon a time", GREEDY)[0].token_ids


def test_a_batch_is_its_sequences(llm: LLM) -> None:
    with llm.session(1) as session:
        session.reset(batch=3, capacity=60)
        found = [session.forward([TOKENS[at + 7 * i : at + 7 * i + n] for i in range(3)]) for at, n in ((0, 20), (20, 1), (21, 35))]
        for i in range(3):
            np.testing.assert_array_equal(np.concatenate([f[i] for f in found]), llm.logits(TOKENS[7 * i : 7 * i + 56]))
        session.reset(batch=1, capacity=5)
        assert session.forward([[5, 6]]).shape == (1, 2, llm.spec.vocab_size)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("forward"), st.integers(0, 3), st.integers(1, 50)),
        st.tuples(st.just("rollback"), st.integers(0, 3), st.integers(0, 60)),
        st.tuples(st.just("fork"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 3), st.just(0)),
    ),
    min_size=4,
    max_size=12,
)


@settings(max_examples=15, deadline=None)
@given(moves=moves, batch=st.sampled_from([None, 2]))
def test_any_moves_give_the_logits_of_what_is_held(native: LLM, moves: list[tuple[str, int, int]], batch: int | None) -> None:
    """Forks part ways without seeing each other's tokens."""
    sessions = [native.session(20)]
    sessions[0].reset(batch, 120)
    random = np.random.default_rng(len(moves))
    for name, which, count in moves:
        session = sessions[which % len(sessions)]
        if name == "forward":
            count = min(count, session.capacity - session.length)
            new = random.integers(5, 250, count if batch is None else (batch, count))
            if count:
                found = session.forward(new)
                held = [session.token_ids] if batch is None else session.token_ids
                for tokens, logits in zip(held, found[None] if batch is None else found, strict=True):
                    np.testing.assert_array_equal(logits[-1], native.logits(tokens)[-1])  # type: ignore[arg-type]
        elif name == "rollback":
            session.rollback(min(count, session.length))
        elif name == "fork" and len(sessions) < 4:
            sessions.append(session.fork())
        elif name == "drop" and len(sessions) > 1:
            sessions.remove(session)
            session.close()
    session = None  # type: ignore[assignment]
    sessions.clear()
    gc.collect()
    assert pool_is_whole(native)
    assert native.engine.pool.groups[0].promised == 0


def test_beside_requests_and_in_another_thread() -> None:
    with LLM("tiny", max_batch=4, prefill_chunk=16) as llm:
        expected, logits = llm.generate("Once upon a time", GREEDY), llm.logits(TOKENS)
        found: list[np.ndarray] = []

        def forward() -> None:
            with llm.session() as session:
                found.append(session.forward(TOKENS))

        threads = [threading.Thread(target=forward) for _ in range(2)]
        handles = [llm.submit("Once upon a time", GREEDY) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert [handle.result()[0].token_ids for handle in handles] == [expected[0].token_ids] * 4
        for thread in threads:
            thread.join(60)
        for whole in found:
            np.testing.assert_array_equal(whole, logits)
        assert len(found) == 2
        assert pool_is_whole(llm)


def test_memory_is_set_aside_and_refused_where_requests_need_it() -> None:
    with LLM("tiny", context=256, max_batch=2, prefix_cache=False) as llm:  # 16 pages
        expected = llm.generate("Hello", SamplingParams(max_tokens=200, seed=1, ignore_eos=True))
        handles = [llm.submit("Hello", SamplingParams(max_tokens=200, seed=1, ignore_eos=True)) for _ in range(2)]
        for handle in handles:
            next(iter(handle))
        with llm.session(256) as session:  # takes half of what there is; one of the two gives way
            assert llm.engine.pool.free_count <= 8
            with pytest.raises(OutOfMemoryError, match="needs KV cache for 256 tokens"):
                session.fork()
            with pytest.raises(OutOfMemoryError):
                session.reset(batch=2)
            session.forward(TOKENS)  # empty, and as large as before
            assert [handle.result()[0].token_ids for handle in handles] == [expected[0].token_ids] * 2
            other = session.fork()
            with pytest.raises(OutOfMemoryError, match="lower max_tokens"):
                llm.submit("Hello", SamplingParams(max_tokens=100))
            np.testing.assert_array_equal(other.forward([9]), session.forward([9]))
            other.close()
        assert llm.generate("Hello", SamplingParams(max_tokens=200, seed=1, ignore_eos=True))[0].token_ids == expected[0].token_ids
        assert pool_is_whole(llm)


def test_what_cannot_be_honoured_is_refused(native: LLM) -> None:
    session = native.session(10)
    session.forward(TOKENS[:4])
    for bad in ([], [[1, 2]], [1.5], ["a"], None, [native.spec.vocab_size], [-1], [[1], [1, 2]], True):
        with pytest.raises(InvalidRequestError):
            session.forward(bad)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match="holds 4 tokens and was given 7, and its capacity is 10"):
        session.forward(TOKENS[:7])
    for last in (-1, 3, True, 1.0):
        with pytest.raises(InvalidRequestError, match="last is"):
            session.forward([5, 6], last=last)  # type: ignore[arg-type]
    for count in (-1, 5, 2**70, "1"):
        with pytest.raises(InvalidRequestError, match="rollback"):
            session.rollback(count)  # type: ignore[arg-type]
    for capacity in (0, -3, 1.0, True, "9"):
        with pytest.raises(InvalidRequestError, match="capacity is"):
            native.session(capacity)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match="the context holds"):
        native.session(10**6)
    with pytest.raises(InvalidRequestError, match="batch is"):
        session.reset(batch=0)
    assert session.token_ids == TOKENS[:4]
    session.close()
    session.close()
    for use in (lambda: session.forward([5]), session.fork, session.reset):
        with pytest.raises(ClosedError):
            use()


def test_after_the_llm_is_closed() -> None:
    llm = LLM("tiny")
    session = llm.session()
    llm.close()
    with pytest.raises(ClosedError):
        session.forward([5])
    with pytest.raises(ClosedError):
        llm.session()
    session.close()


def test_callables_may_not_use_a_session(native: LLM) -> None:
    with native.session() as session, pytest.raises(Exception, match="wait for itself"):
        native.generate("Hello", SamplingParams(choose=lambda logits: int(session.forward([5]).argmax())))
