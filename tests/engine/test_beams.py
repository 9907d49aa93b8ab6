"""Beams in the engine: what they share, that company changes none of them, and that every page comes back. What they find is compared
with transformers in tests/agree/test_beam_search.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mock_model import VOCAB, MockOps, mock_engine, mock_logits, request, run, tokens_of

from linnet.engine.engine import Engine
from linnet.engine.request import Request
from linnet.errors import InvalidRequestError, OutOfMemoryError


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


def search(length: int, beams: int, seed: int = 0, **options: Any) -> Request:
    return request(prompt_of(length, seed), seed=seed, **{"temperature": 0.0, "num_beams": beams, "max_tokens": 20, **options})


def ops_of(engine: Engine) -> MockOps:
    assert isinstance(engine.ops, MockOps)
    return engine.ops


def assert_whole(engine: Engine) -> None:
    assert engine.pool.free_count == engine.pool.count
    assert [*engine.scheduler.running, *engine.scheduler.waiting, *engine.scheduler.trunks] == []
    assert (engine.scheduler.page_table.entries == -1).all()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_enough_beams_find_the_likeliest_answer_of_all() -> None:
    prompt = prompt_of(10)
    firsts = log_softmax(mock_logits(prompt, 12))
    totals = np.array([firsts[token] + log_softmax(mock_logits([*prompt, token], 12)) for token in range(VOCAB)])
    engine = mock_engine(max_batch=VOCAB, pages=200)
    found = search(10, VOCAB, max_tokens=2, n=5, length_penalty=0.0)
    answers = run(engine, found)
    order = np.argsort(-totals.ravel(), kind="stable")[:5]
    assert answers == [[index // VOCAB, index % VOCAB] for index in order.tolist()]
    np.testing.assert_allclose(found.beam_scores, totals.ravel()[order], rtol=1e-5)


def test_the_prompt_is_read_once_and_its_pages_are_shared() -> None:
    engine = mock_engine(prefix_cache=False)
    asked = search(100, 4, n=4)
    engine.submit(asked)
    most = 0
    while not asked.done:
        engine.advance(asked)
        most = max(most, engine.counters().pages_used)
    assert sum(ops_of(engine).steps) == 100 + 4 * 19
    assert most <= 3 + 4 * 1  # of 120 tokens, 96 stand on whole pages that all have in common
    assert_whole(engine)
    assert engine.counters().finish_reasons == {"stop": 0, "length": 4}
    assert engine.counters().generated_tokens == 4 * 20


@pytest.mark.parametrize("options", [{"temperature": 1.3, "frequency_penalty": 0.4}, {"stop_token_ids": [3, 7, 11]}])
def test_company_changes_no_beam(options: dict[str, Any]) -> None:
    """Whatever is shared, gives way, waits or is computed again."""

    def requests() -> list[Request]:
        beams = [search(20 + 9 * seed, 2 + seed % 3, seed, n=2, max_tokens=40, **options) for seed in range(4)]
        others = [request(prompt_of(30 + seed, seed), seed=seed, max_tokens=60, n=1 + seed % 2) for seed in range(4)]
        return [r for pair in zip(beams, others, strict=True) for r in pair]

    alone = [answer for r in requests() for answer in run(mock_engine(), r)]
    tight: tuple[dict[str, Any], ...] = ({"pages": 13}, {"pages": 13, "prefix_cache": False, "prefill_chunk": 7})
    for shape in (*tight, {"max_batch": 4}, {"prefill_chunk": 9}):
        engine = mock_engine(**shape)
        assert run(engine, *requests()) == alone
        assert engine.scheduler.preemptions or shape not in tight
        assert_whole(engine)
    computed_anew = requests()
    for r in computed_anew[::2]:
        r.cache = False
    assert run(mock_engine(), *computed_anew) == alone


SHAPES = [{"windows": (20,)}, {"windows": (None, 20, 3)}, {"slides": True, "context": 40}, {"bidirectional": True}]


@pytest.mark.parametrize("options", SHAPES)
def test_beams_of_windows_and_of_texts_that_slide(options: dict[str, Any]) -> None:
    def asked(cache: bool = True) -> Request:
        r = search(35, 3, n=3, max_tokens=50)
        r.cache = cache
        return r

    engine = mock_engine(prefix_cache=False, **options)
    assert run(engine, asked()) == run(mock_engine(**options), asked(cache=False))
    assert_whole(engine)


def test_searches_that_each_fill_the_batch_wait_for_each_other_and_end() -> None:
    engine = mock_engine(max_batch=4, pages=12, prefix_cache=False)
    asked = [search(20, 4, seed, max_tokens=60, priority=[2, 0, -1][seed]) for seed in range(3)]
    late = search(10, 4, 5, max_tokens=60, priority=-100)
    for r in asked:
        engine.submit(r)
    for _ in range(30):
        engine.advance(asked[0])
    engine.submit(late)  # overtakes whatever runs
    answers = [tokens_of(r, list(engine.outputs(r))) for r in [late, *asked]]
    assert answers == [run(mock_engine(), search(10, 4, 5, max_tokens=60))] + [
        run(mock_engine(), search(20, 4, seed, max_tokens=60)) for seed in range(3)
    ]
    assert_whole(engine)


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_a_search_that_is_given_up_leaves_nothing(steps: int) -> None:
    engine = mock_engine(prefill_chunk=32)
    for ending in ("cancel", "fail"):
        asked, other = search(50, 4), request(prompt_of(9), max_tokens=30)
        engine.submit(asked)
        for _ in range(steps):
            engine.advance(asked)
        if ending == "cancel":
            engine.cancel(asked)
        else:
            ops_of(engine).fail = MemoryError("no memory")
            engine.advance(asked)
            ops_of(engine).fail = None
            assert asked.error is not None
        assert_whole(engine)
        assert asked.done
        assert run(engine, other) == run(mock_engine(), request(prompt_of(9), max_tokens=30))


def test_scores_are_sums_of_the_models_log_probabilities() -> None:
    asked = search(20, 3, n=3, logprobs=2, length_penalty=1.5, stop_token_ids=[3, 7], early_stopping=True)
    engine = mock_engine()
    engine.submit(asked)
    outputs = list(engine.outputs(asked))
    for index, score in enumerate(asked.beam_scores):
        mine = [output for output in outputs if output.sample == index]
        logprobs = [output.logprob for output in mine if output.logprob is not None]
        assert len(logprobs) == len(mine)
        assert [entry.token_id for entry in logprobs] == [output.token_id for output in mine]
        assert all(len(entry.top) == 2 for entry in logprobs)
        assert score == pytest.approx(sum(entry.logprob for entry in logprobs) / len(mine) ** 1.5, rel=1e-5)
    assert asked.beam_scores == sorted(asked.beam_scores, reverse=True)


def test_fewer_answers_than_beams_where_there_are_no_more() -> None:
    only = {token: -1e9 for token in range(VOCAB) if token != 5}
    asked = search(10, 3, n=3, max_tokens=4, logits_processor=lambda tokens, scores: np.where(np.arange(VOCAB) == 5, scores, -np.inf))
    assert run(mock_engine(), asked) == [[5] * 4, [], []]
    assert len(asked.beam_scores) == 1
    assert run(mock_engine(), search(10, 2, max_tokens=4, logit_bias=only)) == [[5] * 4]
    with pytest.raises(InvalidRequestError, match="left no beam a token"):
        run(mock_engine(), search(10, 2, max_tokens=4, no_repeat_ngram_size=1, logits_processor=asked.params.logits_processor))


def test_a_prompt_is_scored_without_beams() -> None:
    asked = search(40, 3, max_tokens=0)
    assert run(mock_engine(), asked) == [[]]
    assert asked.prompt_logprobs is not None
    assert None not in asked.prompt_logprobs[1:]


def test_a_search_that_never_fits_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="num_beams is 9 and max_batch 8: beams go side by side"):
        mock_engine().check(search(10, 9))
    with pytest.raises(OutOfMemoryError, match="cache for 480 tokens and the cache holds 320; lower max_tokens or num_beams"):
        mock_engine(pages=10).check(search(100, 4))
