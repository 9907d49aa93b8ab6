"""The engine's laws, on a model whose logits depend on every token in its pages."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from mock_model import VOCAB, MockOps, mock_engine, mock_logits, request, run, tokens_of

from linnet.engine.request import Request
from linnet.errors import ContextLengthError, InvalidRequestError, OutOfMemoryError
from linnet.ops.base import PAGE_SIZE

PROMPTS = [[int(t) for t in np.random.default_rng(n).integers(0, VOCAB, n)] for n in (1, 2, 7, 31, 32, 33, 64, 100)]


def mixed_requests(**options: object) -> list[Request]:
    """Requests of mixed lengths, greedy and not, one with several samples."""
    requests = [request(p, max_tokens=10 + 7 * i, temperature=0.5 * (i % 3), seed=i, **options) for i, p in enumerate(PROMPTS)]
    return [*requests, request(PROMPTS[3], max_tokens=20, n=3, seed=9, **options)]


def test_greedy_is_the_plain_loop() -> None:
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(40):
            tokens.append(int(np.argmax(mock_logits(tokens, len(prompt) + 40))))
        assert run(mock_engine(), request(prompt, max_tokens=40, temperature=0.0)) == [tokens[len(prompt) :]]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "logit_bias": {3: 2.0}, "min_p": 0.02}])
def test_same_tokens_alone_batched_chunked_and_without_cache(options: dict[str, object]) -> None:
    alone = [answer for r in mixed_requests(**options) for answer in run(mock_engine(), r)]
    assert len({tuple(answer) for answer in alone[-3:]}) == 3  # samples differ
    for engine in (
        mock_engine(),
        mock_engine(prefill_chunk=7),
        mock_engine(prefill_chunk=1, max_batch=3),
        mock_engine(max_batch=1),
        mock_engine(pages=9),
    ):
        assert run(engine, *mixed_requests(**options)) == alone
        assert engine.pool.free_count == engine.pool.count
    assert run(mock_engine(), *mixed_requests(cache=False, **options)) == alone


def test_a_reused_engine_gives_the_same_tokens_again() -> None:
    engine = mock_engine(pages=20)
    first = run(engine, *mixed_requests())
    assert run(engine, *mixed_requests()) == first


def test_steps_are_full_and_bounded() -> None:
    engine = mock_engine(prefill_chunk=10, max_batch=4)
    run(engine, *[request(PROMPTS[4], max_tokens=20) for _ in range(9)])
    ops: MockOps = engine.ops  # type: ignore[assignment]
    assert max(ops.sequences) == 4
    assert max(ops.steps) <= 10 + 4
    assert max(ops.wanted) <= 4
    assert sum(ops.steps) == 9 * (32 + 20 - 1)


def test_without_cache_everything_is_recomputed() -> None:
    engine = mock_engine()
    run(engine, request([1, 2, 3], max_tokens=4, cache=False))
    assert engine.ops.steps == [3, 4, 5, 6]  # type: ignore[attr-defined]


def test_interleaved_streams_equal_their_solo_runs() -> None:
    engine = mock_engine(prefill_chunk=7)
    requests = mixed_requests()
    for r in requests:
        engine.submit(r)
    streams = {r: engine.outputs(r) for r in requests}
    outputs: dict[Request, list] = {r: [] for r in requests}
    while streams:
        for r, stream in list(streams.items()):
            output = next(stream, None)
            if output is None:
                del streams[r]
            else:
                outputs[r].append(output)
    got = [answer for r in requests for answer in tokens_of(r, outputs[r])]
    assert got == [answer for r in mixed_requests() for answer in run(mock_engine(), r)]
    assert max(engine.ops.sequences) > 1  # type: ignore[attr-defined]


def test_threads_share_the_engine() -> None:
    engine = mock_engine(pages=40, max_batch=5, prefill_chunk=13)
    requests = [request(p, max_tokens=30, seed=n) for n in range(4) for p in PROMPTS]
    answers: dict[Request, list[list[int]]] = {}

    def work(mine: list[Request]) -> None:
        for r in mine:
            answers.update({r: run(engine, r)})

    threads = [threading.Thread(target=work, args=(requests[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [answers[r] for r in requests] == [run(mock_engine(), request(r.prompt, max_tokens=30, seed=r.seed)) for r in requests]
    assert max(engine.ops.sequences) > 1  # type: ignore[attr-defined]
    assert engine.pool.free_count == engine.pool.count


def test_streams_that_end_early_at_random_leave_the_others_and_the_pages_alone() -> None:
    engine = mock_engine(pages=30, max_batch=4, prefill_chunk=9)
    expected = {i: run(mock_engine(), request(p, max_tokens=40, seed=i)) for i, p in enumerate(PROMPTS)}
    wrong: list[object] = []

    def work(me: int) -> None:
        chance = np.random.default_rng(me)
        for _ in range(25):
            i = int(chance.integers(len(PROMPTS)))
            r = request(PROMPTS[i], max_tokens=40, seed=i)
            engine.submit(r)
            stream, most, outputs = engine.outputs(r), int(chance.integers(60)), []
            for output in stream:
                outputs.append(output)
                if len(outputs) == most:
                    break
            stream.close()
            found = tokens_of(r, outputs)[0]
            if found != expected[i][0][: len(found)] or len(found) < min(40, most):
                wrong.append((i, most, found))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []
    assert engine.pool.free_count == engine.pool.count
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting


@pytest.mark.parametrize("steps", [0, 1, 3, 20])
def test_closing_a_stream_frees_its_pages(steps: int) -> None:
    engine = mock_engine(prefill_chunk=7)
    victim = request(PROMPTS[2], max_tokens=30)
    engine.submit(victim)
    other = request(PROMPTS[7], max_tokens=50, n=2)
    engine.submit(other)
    stream = engine.outputs(other)
    for _ in range(steps):
        next(stream)
    stream.close()
    engine.cancel(other)  # a generator that never started runs no `finally`
    assert tokens_of(victim, list(engine.outputs(victim))) == run(mock_engine(), request(PROMPTS[2], max_tokens=30))
    assert engine.pool.free_count == engine.pool.count
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting


def test_a_dropped_stream_is_cancelled_even_during_a_step() -> None:
    engine = mock_engine()
    dropped = request([1, 2], max_tokens=100)
    engine.submit(dropped)
    streams = [engine.outputs(dropped)]
    next(streams[0])

    def drop(tokens: list[int], logits: np.ndarray) -> np.ndarray:
        streams.clear()
        gc.collect()
        return logits

    assert len(run(engine, request([3], max_tokens=5, logits_processor=drop))[0]) == 5
    assert dropped.done
    assert engine.pool.free_count == engine.pool.count


def test_end_ids_stop_ids_and_ignored_end() -> None:
    free = run(mock_engine(), request([5], max_tokens=60))[0]
    end = free[20]
    cut = free[: free.index(end) + 1]
    r = request([5], max_tokens=60, end_ids=frozenset({end}))
    mine = mock_engine()
    mine.submit(r)
    outputs = list(mine.outputs(r))
    assert tokens_of(r, outputs) == [cut]
    assert outputs[-1].finish_reason == "stop"
    assert all(o.finish_reason is None for o in outputs[:-1])
    assert run(mock_engine(), request([5], max_tokens=60, stop_token_ids=[end])) == [cut]
    assert run(mock_engine(), request([5], max_tokens=60)) == [free]


def test_min_tokens_masks_the_end() -> None:
    everything = frozenset(range(VOCAB)) - {4, 11}
    answer = run(mock_engine(), request([5], max_tokens=60, min_tokens=9, end_ids=everything))[0]
    assert set(answer[:9]) <= {4, 11}
    assert answer[-1] in everything
    assert answer[9:-1] == [t for t in answer[9:-1] if t in (4, 11)]
    with pytest.raises(InvalidRequestError, match="no token to choose"):
        run(mock_engine(), request([5], max_tokens=60, min_tokens=9, end_ids=frozenset(range(VOCAB))))


def test_stop_rule_ends_one_sample_only() -> None:
    seen: dict[int, list[int]] = {0: [], 1: []}

    def rule(sample: int, token: int) -> bool:
        seen[sample].append(token)
        return sample == 1 and len(seen[1]) == 4

    engine = mock_engine()
    r = request([5], max_tokens=9, n=2)
    r.stop_rule = rule
    engine.submit(r)
    outputs = list(engine.outputs(r))
    assert [len(a) for a in tokens_of(r, outputs)] == [9, 4]
    assert seen == dict(enumerate(tokens_of(r, outputs)))
    assert {(o.sample, o.finish_reason) for o in outputs if o.finish_reason} == {(0, "length"), (1, "stop")}
    times = [o.at for o in outputs]
    assert r.submitted_at <= times[0]
    assert times == sorted(times)


def test_no_max_tokens_fills_the_context() -> None:
    engine = mock_engine(context=50)
    assert len(run(engine, request([1] * 49))[0]) == 1
    assert len(run(engine, request([1] * 3))[0]) == 47
    with pytest.raises(ContextLengthError, match=r"50 tokens.*holds 50"):
        engine.submit(request([1] * 50))
    assert run(engine, request([1] * 50, max_tokens=0)) == [[]]


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([], {}, InvalidRequestError, "empty"),
        ([1] * 201, {}, ContextLengthError, "201 tokens.*holds 200"),
        ([1] * 150, {"max_tokens": 51}, ContextLengthError, "150 tokens.*51, together 201.*holds 200"),
        ([1], {"max_tokens": 10**12}, ContextLengthError, "holds 200"),
        ([1, 50], {}, InvalidRequestError, "token id 50 in the prompt .* 50 embedding rows"),
        ([1, -1], {}, InvalidRequestError, "token id -1"),
        ([1], {"logit_bias": {77: 1.0}}, InvalidRequestError, "token id 77 in logit_bias"),
        ([1], {"stop_token_ids": [50]}, InvalidRequestError, "token id 50 in stop_token_ids"),
    ],
)
def test_refusals_before_any_work(prompt: list[int], options: dict, error: type[Exception], message: str) -> None:
    engine = mock_engine()
    with pytest.raises(error, match=message):
        engine.submit(request(prompt, **options))
    assert engine.ops.steps == []  # type: ignore[attr-defined]
    assert not engine.scheduler.waiting


def test_a_request_that_never_fits_the_pool_is_refused() -> None:
    engine = mock_engine(pages=2)
    with pytest.raises(OutOfMemoryError, match=f"65 tokens .* holds {2 * PAGE_SIZE}"):
        engine.submit(request([1] * 60, max_tokens=5))
    assert len(run(engine, request([1] * 60, max_tokens=4))[0]) == 4


def test_own_sampling_functions() -> None:
    greedy = run(mock_engine(), request([1], max_tokens=20, temperature=0.0))
    assert run(mock_engine(), request([1], max_tokens=20, choose=np.argmax)) == greedy
    histories = []

    def only_even(tokens: list[int], logits: np.ndarray) -> np.ndarray:
        histories.append(list(tokens))
        logits[1::2] = -np.inf
        return logits

    answer = run(mock_engine(), request([1], max_tokens=20, logits_processor=only_even))[0]
    assert all(t % 2 == 0 for t in answer)
    assert histories == [[1, *answer[:i]] for i in range(20)]
    with pytest.raises(InvalidRequestError, match=r"shape \(3,\)"):
        run(mock_engine(), request([1], logits_processor=lambda tokens, logits: logits[:3]))
    with pytest.raises(InvalidRequestError, match="no token"):
        run(mock_engine(), request([1], logits_processor=lambda tokens, logits: logits * np.nan))


def test_logprobs_and_prompt_logprobs_are_log_softmax() -> None:
    prompt = PROMPTS[5]
    r = request(prompt, max_tokens=6, logprobs=3, prompt_logprobs=2, temperature=1.7, logit_bias={1: 5.0})
    engine = mock_engine(prefill_chunk=7)
    engine.submit(r)
    outputs = list(engine.outputs(r))
    tokens = [*prompt, *(o.token_id for o in outputs)]
    assert r.prompt_logprobs is not None
    assert r.prompt_logprobs[0] is None
    found = [*r.prompt_logprobs[1:], *(o.logprob for o in outputs)]
    assert len(found) == len(tokens) - 1
    for i, entry in enumerate(found, 1):
        assert entry is not None
        logits = mock_logits(tokens[:i], len(prompt) + 6).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert entry.token_id == tokens[i]
        assert entry.logprob == pytest.approx(expected[tokens[i]], abs=1e-12)
        order = np.argsort(-expected)[: 2 if i < len(prompt) else 3]
        assert [t for t, _ in entry.top] == order.tolist()
        assert [p for _, p in entry.top] == pytest.approx(expected[order].tolist(), abs=1e-12)


def test_max_tokens_0_scores_the_prompt_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.engine.engine.PROMPT_LOGIT_BYTES", 4 * VOCAB * 5)
    engine = mock_engine()
    r = request(PROMPTS[6], max_tokens=0)
    victim = request(PROMPTS[3], max_tokens=4)
    engine.submit(victim)
    engine.submit(r)
    outputs = list(engine.outputs(r))
    assert [(o.token_id, o.finish_reason) for o in outputs] == [(None, "length")]
    assert r.prompt_logprobs is not None
    assert [p.token_id for p in r.prompt_logprobs if p] == PROMPTS[6][1:]
    assert max(engine.ops.wanted) == 5 + 1  # type: ignore[attr-defined]


def test_first_come_first_served() -> None:
    """A long request at the head is not overtaken for ever by short ones that would fit."""
    engine = mock_engine(pages=7)
    first, long, short = request([1] * 130, max_tokens=40), request([2] * 90, max_tokens=100), request([3, 3], max_tokens=5)
    order = []
    for r, name in ((first, "first"), (long, "long"), (short, "short")):
        engine.submit(r)
        r.stop_rule = lambda sample, token, name=name: order.append(name)  # type: ignore[assignment,misc,return-value]
    for r in (short, first, long):
        list(engine.outputs(r))
    assert order.index("first") < order.index("long") < order.index("short")
