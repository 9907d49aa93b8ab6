"""Shared pages, prefixes and preemption: what they save, that they change no token, and that every page comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import VOCAB, MockOps, mock_engine, mock_logits, request, run, tokens_of

from linnet.engine.engine import Engine
from linnet.engine.pages import PageGroup
from linnet.engine.request import Request
from linnet.ops.base import PAGE_SIZE


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


def ops_of(engine: Engine) -> MockOps:
    ops = engine.ops
    assert isinstance(ops, MockOps)
    return ops


def assert_whole(engine: Engine) -> None:
    assert engine.pool.free_count == engine.pool.count
    assert [*engine.scheduler.running, *engine.scheduler.waiting, *engine.scheduler.trunks] == []
    assert (engine.scheduler.page_table.entries == -1).all()


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("max_batch", [2, 8])
def test_samples_read_the_prompt_once(length: int, max_batch: int) -> None:
    engine = mock_engine(max_batch=max_batch, prefix_cache=False)
    together = run(engine, request(prompt_of(length), max_tokens=20, n=5))
    assert sum(ops_of(engine).steps) == length + 4 + 5 * 19  # and the last token of it again, for each of the others
    assert ops_of(engine).copies <= 5
    assert together[0] == run(mock_engine(), request(prompt_of(length), max_tokens=20))[0]
    assert len({tuple(sample) for sample in together}) == 5
    assert together == run(mock_engine(), request(prompt_of(length), max_tokens=20, n=5, cache=False))
    assert_whole(engine)


def test_a_prefix_is_read_once_and_reported() -> None:
    engine = mock_engine()
    shared = prompt_of(100)
    first, second, third = (request([*shared, last], max_tokens=5) for last in (1, 2, 3))
    answer = run(engine, first)
    before = sum(ops_of(engine).steps)
    assert run(engine, second) == run(mock_engine(), request([*shared, 2], max_tokens=5))
    assert sum(ops_of(engine).steps) - before == 101 - 96 + 4
    assert (first.cached_tokens, second.cached_tokens) == (0, 96)
    follow_up = request([*shared, 1, *answer[0], *prompt_of(40, 5)], max_tokens=5)  # what was generated is found as well
    assert run(engine, follow_up) == run(mock_engine(), request(follow_up.prompt, max_tokens=5))
    assert follow_up.cached_tokens == 96
    third.cache = False
    run(engine, third)
    assert third.cached_tokens == 0
    assert_whole(engine)


def test_equal_beginnings_that_come_together_are_read_once() -> None:
    engine = mock_engine(prefill_chunk=40)
    requests = [request([*prompt_of(100), last], max_tokens=5) for last in (1, 2, 3)] + [request(prompt_of(70, 9), max_tokens=5)]
    assert run(engine, *requests) == [run(mock_engine(), request(r.prompt, max_tokens=5))[0] for r in requests]
    assert [r.cached_tokens for r in requests] == [0, 96, 96, 0]
    assert sum(ops_of(engine).steps) == 101 + 2 * 5 + 70 + 4 * 4
    engine = mock_engine(prefill_chunk=40)
    first, second = (request(prompt_of(100), max_tokens=5) for _ in range(2))
    for r in (first, second):
        engine.submit(r)
    engine.advance(second)
    engine.cancel(first)  # who waits for its pages takes those that there are, and reads the rest itself
    assert tokens_of(second, list(engine.outputs(second))) == run(mock_engine(), request(prompt_of(100), max_tokens=5))
    assert second.cached_tokens == 32
    assert_whole(engine)


def test_scored_prompts_are_computed_whole_and_feed_the_cache() -> None:
    engine = mock_engine()
    for _ in range(2):
        scored = request(prompt_of(70), max_tokens=3, prompt_logprobs=0)
        run(engine, scored)
        assert scored.cached_tokens == 0
        assert None not in (scored.prompt_logprobs or [None])[1:]
    found = request(prompt_of(70), max_tokens=3)
    run(engine, found)
    assert found.cached_tokens == 64


@pytest.mark.parametrize("options", [{"prefix_cache": False}, {"bidirectional": True}])
def test_no_prefixes_where_there_are_none_to_share(options: dict[str, bool]) -> None:
    engine = mock_engine(**options)  # type: ignore[arg-type]
    for _ in range(2):
        again = request(prompt_of(100), max_tokens=2)
        run(engine, again)
        assert again.cached_tokens == 0


def test_prefixes_are_forgotten_from_their_ends_the_oldest_first() -> None:
    engine = mock_engine(pages=8)
    for seed in (1, 2):
        run(engine, request(prompt_of(97, seed), max_tokens=1))  # three pages with a name, and one without
    run(engine, request(prompt_of(97, 3), max_tokens=1))  # needs two of the eight that have a name
    cached = []
    for seed in (2, 1):
        again = request(prompt_of(97, seed), max_tokens=1)
        run(engine, again)
        cached.append(again.cached_tokens)
    assert cached == [96, 32]
    assert_whole(engine)


def test_more_run_than_their_whole_lengths_have_room_for() -> None:
    engine = mock_engine(pages=8, prefix_cache=False)
    requests = [request([n], max_tokens=20) for n in range(6)]
    for r in requests:
        r.params = request([0], max_tokens=150, stop_token_ids=list(range(0, VOCAB, 4))).params
        r.ends = frozenset(r.params.stop_token_ids)
    run(engine, *requests)
    assert max(ops_of(engine).sequences) > 2  # each may come to five pages
    assert_whole(engine)


def test_what_gives_way_goes_on_with_the_same_tokens() -> None:
    def requests() -> list[Request]:
        return [request(prompt_of(20 + n, n), max_tokens=150, seed=n, repetition_penalty=1.1) for n in range(5)]

    alone = [run(mock_engine(), r)[0] for r in requests()]
    for options in ({}, {"prefix_cache": False}, {"prefill_chunk": 9}, {"max_batch": 3}):
        engine = mock_engine(pages=7, **options)  # type: ignore[arg-type]
        assert run(engine, *requests()) == alone
        assert engine.scheduler.preemptions
        assert_whole(engine)


def test_a_scored_prompt_that_gives_way_is_handed_out_once() -> None:
    engine = mock_engine(pages=7, prefill_chunk=8)
    first, scored = request(prompt_of(60), max_tokens=140), request(prompt_of(100, 1), max_tokens=0)
    seen: list[int] = []
    scored.prompt_logits = lambda position, rows: seen.extend(range(position, position + len(rows)))
    run(engine, first, scored)
    assert seen == list(range(100))


mixes = st.lists(
    st.tuples(
        st.integers(0, 3),  # which text it begins with
        st.integers(1, 90),  # how much of it
        st.integers(1, 90),  # most tokens
        st.sampled_from([0.0, 0.8]),
        st.integers(1, 4),  # samples
        st.booleans(),  # cache
        st.integers(0, 60),  # steps to wait for before it comes
        st.one_of(st.none(), st.integers(0, 40)),  # outputs after which it is cancelled
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 150),
    start=st.integers(0, 150),
    shared=st.integers(0, 150),
    chunk=st.sampled_from([1, 20, 64, 512]),
    generated=st.integers(0, 2),
)
def test_logits_are_handed_out_from_where_they_are_wanted(length: int, start: int, shared: int, chunk: int, generated: int) -> None:
    engine = mock_engine(prefill_chunk=chunk)
    prompt = prompt_of(length)
    before = prompt[:shared] or [1]
    run(engine, request(before, max_tokens=1))
    scored = request(prompt, max_tokens=generated)
    scored.logits_from = start
    given: dict[int, list[float]] = {}
    scored.prompt_logits = lambda position, rows: given.update(zip(range(position, position + len(rows)), rows.tolist(), strict=True))
    rows_before = sum(ops_of(engine).wanted)
    run(engine, scored)
    assert list(given) == list(range(start, length))
    assert all(given[i] == mock_logits(prompt[: i + 1], length + generated).tolist() for i in given)
    assert sum(ops_of(engine).wanted) - rows_before == max(1, len(given)) + max(0, generated - 1)
    known = [len(before), length - 1, start]
    assert scored.cached_tokens == min(known) // PAGE_SIZE * PAGE_SIZE
    assert_whole(engine)


@settings(max_examples=60, deadline=None)
@given(mix=mixes, pages=st.integers(6, 20), chunk=st.sampled_from([1, 7, 64]), batch=st.integers(1, 8), prefixes=st.booleans())
def test_any_mix_gives_the_tokens_of_solo_runs(mix: list, pages: int, chunk: int, batch: int, prefixes: bool) -> None:
    engine = mock_engine(pages=pages, prefill_chunk=chunk, max_batch=batch, prefix_cache=prefixes)
    made = []
    for seed, (text, length, most, temperature, n, cache, wait, cancelled) in enumerate(mix):
        cache = cache or chunk < 64  # else all of it again for each token, a few rows at a time
        options = {"max_tokens": most, "temperature": temperature, "n": n, "seed": seed, "cache": cache}
        made.append((wait, cancelled, request(prompt_of(90, text)[:length], **options), options))  # type: ignore[arg-type]
    outputs: dict[Request, list] = {r: [] for _, _, r, _ in made}
    streams: dict[Request, object] = {}
    for step in range(100_000):
        for wait, _, r, _ in made:
            if wait == step:
                engine.submit(r)
                streams[r] = engine.outputs(r)
        for _, cancelled, r, _ in made:
            stream = streams.get(r)
            if stream is None:
                continue
            output = next(stream, None)  # type: ignore[call-overload]
            if output is None:
                streams[r] = None
            else:
                outputs[r].append(output)
                if cancelled is not None and len(outputs[r]) > cancelled:
                    stream.close()  # type: ignore[attr-defined]
                    streams[r] = None
        if len(streams) == len(made) and not any(streams.values()):
            break
    assert_whole(engine)
    for _, cancelled, r, options in made:
        found = tokens_of(r, outputs[r])
        alone = run(mock_engine(prefix_cache=False), request(r.prompt, **options))
        if cancelled is None:
            assert found == alone
        else:
            assert all(whole[: len(part)] == part for whole, part in zip(alone, found, strict=True))


def test_pages_go_round() -> None:
    pool = PageGroup(3)
    [a, b] = pool.allocate(2)
    pool.keep(a, b"a")
    pool.hold([a])
    assert pool.is_shared(a)
    pool.free([a, b])
    assert pool.free_count == 2
    pool.free([a])
    assert pool.free_count == 3
    assert pool.find(b"a") == a
    assert a not in pool.allocate(2)
    assert pool.find(b"a") == a
    assert pool.allocate(1) == [a]
    assert pool.find(b"a") is None
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([a, a])
    assert PAGE_SIZE == 32
