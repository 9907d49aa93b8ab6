"""What lookup guesses from, and what steps are thought to cost."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.lookup import LONGEST, Lookup, PairIndex
from linnet.engine.step_costs import LOOK, STALE, StepCosts

texts = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(text=texts, split=st.integers(1, 59), stride=st.integers(1, 9))
def test_it_finds_what_is_there(text: list[int], split: int, stride: int) -> None:
    """However many tokens come at once, and wherever the prompt ends: a match is one, and is found where the last pair stood before."""
    split = min(split, len(text) - 1)
    lookup = Lookup(PairIndex(0), split)
    for end in range(split + 1, len(text) + 1, stride):
        seen = text[:end]
        lookup.follow(seen)
        pairs = list(pairwise(seen))
        assert (lookup.length >= 2) == (pairs[-1] in pairs[:-1])
        if lookup.length >= 2:
            guessed = lookup.guess(seen, 30)
            assert len(guessed) == 30
            places = [i for i in range(lookup.length, end) if seen[i - lookup.length : i] == seen[end - lookup.length :]]
            rounds = [[*seen[i:], *([*seen[i:]] * 30)][:30] for i in places]
            assert guessed in rounds


def test_samples_share_the_prompts_index() -> None:
    prompt = [1, 2, 3, 4] * 50
    index = PairIndex(0)
    lookups = [Lookup(index, len(prompt)) for _ in range(3)]
    for n, lookup in enumerate(lookups):
        lookup.follow([*prompt, 1, 2, n])
    assert len(index._earlier) == len(prompt) - 1
    assert [lookup.length for lookup in lookups] == [1, 1, 1]
    lookups[0].follow([*prompt, 1, 2, 0, 2, 3])
    assert lookups[0].guess([*prompt, 1, 2, 0, 2, 3], 3) == [4, 1, 2]


def test_a_longer_match_is_better_and_rates_follow_what_comes() -> None:
    text = [9, 1, 2, 5, 7, 1, 2, 6, 8, 9, 1]
    lookup = Lookup(PairIndex(0), len(text))
    lookup.follow([*text, 2])
    assert (lookup.length, lookup.guess([*text, 2], 2)) == (3, [5, 7])
    rates = list(islice(lookup.rates(), 20))
    assert rates == sorted(rates)
    assert rates[-1] < 1
    lookup.follow([*text, 2, 6])  # 5 did not come
    assert (lookup.length, lookup.guess([*text, 2, 6], 3)) == (3, [8, 9, 1])
    assert next(lookup.rates()) < rates[0]
    lookup.follow([*text, 2, 6, 8])
    assert lookup.length == 4
    lookup.follow([*text, 2, 6, 8, 0])
    assert lookup.length == 0


def test_a_long_copy_is_sure() -> None:
    prompt = list(range(200))
    lookup = Lookup(PairIndex(0), len(prompt))
    lookup.follow([*prompt, *prompt[:40]])
    assert lookup.length == LONGEST
    assert min(islice(lookup.rates(), 15)) > 0.95
    assert lookup.guess([*prompt, *prompt[:40]], 5) == [40, 41, 42, 43, 44]


def test_a_token_in_place_of_another_does_not_end_a_copy() -> None:
    prompt = list(range(200))
    lookup = Lookup(PairIndex(0), len(prompt))
    tokens = [*prompt, *prompt[:40], 777]
    lookup.follow(tokens)
    assert (lookup.length, lookup.guess(tokens, 3)) == (1, [41, 42, 43])
    before = next(lookup.rates())
    tokens += [41, 42]
    lookup.follow(tokens)
    assert (lookup.length, lookup.guess(tokens, 1)) == (3, [43])
    assert lookup._rates[1] > before


def test_costs_are_measured_and_drawn_between() -> None:
    costs = StepCosts()
    assert costs.seconds(3) == 0
    for seconds in (1.0, 1.1):
        costs.record(1, seconds)
    assert costs.is_known(1)
    assert costs.seconds(9) == 1.0  # nothing else is known
    costs.record(5, 9.0)
    assert not costs.is_known(5)  # once is not enough
    costs.record(5, 2.0)
    costs.record(5, 3.0)
    assert [costs.seconds(rows) for rows in (1, 2, 3, 5, 9)] == pytest.approx([1, 1.25, 1.5, 2, 3])
    costs.record(3, 1.2)
    costs.record(3, 1.2)
    assert costs.seconds(2) == pytest.approx(1.1)


def test_costs_that_are_not_renewed_are_forgotten() -> None:
    costs = StepCosts()
    for _ in range(2):
        costs.record(4, 5.0)
    costs.record(7, 6.0)
    for _ in range(STALE + LOOK):
        costs.record(1, 1.0)
    assert (costs.is_known(4), costs.is_known(7), costs.is_known(1)) == (False, False, True)
    assert costs.seconds(4) == 1.0
    for _ in range(6):  # a few later ones outweigh what was measured long ago
        costs.record(1, 2.0)
    assert costs.seconds(1) == 2.0
