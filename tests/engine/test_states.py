"""Recurrent layers, whose states cannot be taken back: what is found again, and what a session has left after it rolled back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from mock_model import mock_engine, mock_logits, request, run
from test_shared_pages import assert_whole, prompt_of

from linnet.engine.pages import STATE, passed_over
from linnet.engine.session import Session
from linnet.ops.base import PAGE_SIZE


@pytest.mark.parametrize(
    ("start", "end", "pages"),
    [(0, 128, []), (64, 160, []), (33, 96, []), (33, 97, [1]), (33, 128, [1]), (63, 129, [1]), (40, 41, []), (95, 97, [])],
)
def test_a_state_in_the_middle_of_its_page_is_passed_over(start: int, end: int, pages: list[int]) -> None:
    assert list(passed_over(STATE, start, end)) == pages
    assert not passed_over(None, start, end)
    assert not passed_over(40, start, end)


@pytest.mark.parametrize("windows", [(STATE,), (None, STATE)])
@pytest.mark.parametrize("first", [31, 32, 33, 60, 64])
def test_a_state_that_a_step_went_past_is_nobodys_prefix(first: int, windows: tuple[int | None, ...]) -> None:
    engine = mock_engine(windows=windows, prefill_chunk=100)
    long = prompt_of(160, 1)
    run(engine, request(prompt_of(first), max_tokens=1), request(long, max_tokens=1))  # the long prompt is cut at 100 - first
    for shared in (*range(PAGE_SIZE, 160, PAGE_SIZE), 65, 159):
        prompt = [*long[:shared], 7, 8]
        assert run(engine, request(prompt, max_tokens=5)) == run(mock_engine(windows=windows), request(prompt, max_tokens=5))
    assert_whole(engine)


@pytest.mark.parametrize("chunk", [7, 32, 33, 64])
@pytest.mark.parametrize("length", [32, 33, 64, 65, 96, 97])
def test_a_prompt_is_found_up_to_its_last_whole_page(length: int, chunk: int) -> None:
    engine = mock_engine(windows=(None, STATE), prefill_chunk=chunk)
    prompt = prompt_of(length)
    [answer] = run(engine, request(prompt, max_tokens=40))
    again, on = request(prompt, max_tokens=40), request([*prompt, *answer, 1], max_tokens=1)
    assert run(engine, again) == [answer]
    run(engine, on)
    assert again.cached_tokens == (length - 1) // PAGE_SIZE * PAGE_SIZE
    assert on.cached_tokens == (length + 39) // PAGE_SIZE * PAGE_SIZE


@pytest.mark.parametrize("windows", [(STATE,), (None, STATE), (70, STATE)])
@pytest.mark.parametrize("cuts", [(33, 95, 32), (33, 31, 64, 32), (1, 127, 32), (64, 64, 32), (40, 100, 20), (160,)])
def test_sessions_roll_states_back(cuts: tuple[int, ...], windows: tuple[int | None, ...]) -> None:
    engine = mock_engine(windows=windows, prefill_chunk=128)
    tokens = prompt_of(160)
    logits = np.array([mock_logits(tokens[: end + 1][-(windows[0] or 0) :], 160) for end in range(160)])
    for back in (1, 31, 32, 33, 63, 64, 65, 80, 96, 127, 128, 159, 160):
        with Session(engine, 160) as session:
            starts = np.cumsum([0, *cuts])
            for start, end in pairwise(starts.tolist()):
                assert np.array_equal(session.forward(tokens[start:end]), logits[start:end])
            twin = session.fork()
            for other in (session, twin):
                other.rollback(back)
                assert np.array_equal(other.forward(tokens[160 - back :]), logits[160 - back :])
                other.rollback(1)
                assert np.array_equal(other.forward(tokens[159:]), logits[159:])
            twin.close()
    assert_whole(engine)
