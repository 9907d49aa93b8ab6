"""Past the context of a model that slides: it sees the last tokens that the context holds, as if they were the first."""

from __future__ import annotations

import numpy as np
import pytest
from mock_model import VOCAB, mock_engine, mock_logits, request, run

from linnet.engine.request import Request
from linnet.errors import ContextLengthError, OutOfMemoryError

CONTEXT = 40


def prompt_of(length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(length).integers(0, VOCAB, length)]


def plain_loop(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(mock_logits(tokens[-CONTEXT:], min(len(prompt) + count, CONTEXT)))))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [1, 5, 39, 40, 41, 150])
def test_it_is_the_plain_loop_over_the_last_tokens(length: int) -> None:
    prompt = prompt_of(length)
    expected = plain_loop(prompt, 60)
    for cache in (True, False):
        engine = mock_engine(context=CONTEXT, slides=True)
        assert run(engine, request(prompt, max_tokens=60, temperature=0.0, cache=cache)) == [expected]
        assert engine.pool.free_count == engine.pool.count


def mixed_requests() -> list[Request]:
    shorter = [request(prompt_of(n), max_tokens=30, temperature=0.7, seed=n, repetition_penalty=1.2) for n in (3, 20, 38, 60)]
    return [*shorter, request(prompt_of(10), max_tokens=50, n=3, seed=1)]


def test_same_tokens_alone_batched_and_chunked() -> None:
    alone = [answer for r in mixed_requests() for answer in run(mock_engine(context=CONTEXT, slides=True), r)]
    for options in ({}, {"prefill_chunk": 7}, {"prefill_chunk": 1, "max_batch": 3}, {"pages": 4}):
        assert run(mock_engine(context=CONTEXT, slides=True, **options), *mixed_requests()) == alone


def test_no_more_pages_than_the_context_needs() -> None:
    engine = mock_engine(context=CONTEXT, pages=2, slides=True)
    assert len(run(engine, request(prompt_of(100), max_tokens=100))[0]) == 100
    with pytest.raises(OutOfMemoryError, match="cache for 64 tokens and the cache holds 32"):
        mock_engine(context=CONTEXT, pages=1, slides=True).submit(request([1], max_tokens=100))


def test_without_max_tokens_an_answer_is_as_long_as_the_context() -> None:
    for length in (1, 40, 90):
        assert len(run(mock_engine(context=CONTEXT, slides=True), request(prompt_of(length)))[0]) == CONTEXT


def test_prompts_are_scored_within_the_context_only() -> None:
    engine = mock_engine(context=CONTEXT, slides=True)
    scored = request(prompt_of(40), max_tokens=5, prompt_logprobs=0)
    assert len(run(engine, scored)[0]) == 5
    assert scored.prompt_logprobs is not None
    assert len(scored.prompt_logprobs) == 40
    for options in ({"max_tokens": 0}, {"max_tokens": 5, "prompt_logprobs": 1}):
        with pytest.raises(ContextLengthError, match="a prompt of 41 tokens cannot be scored in a context of 40"):
            engine.submit(request(prompt_of(41), **options))
