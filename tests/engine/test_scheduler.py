"""Steps over prompts that see both ways, which are never cut; what every prompt's steps hold is in test_engine.py."""

from __future__ import annotations

import numpy as np
import pytest
from mock_model import VOCAB, MockOps, mock_engine, mock_logits, request, run

from linnet.engine.engine import Engine
from linnet.engine.pages import PagePool
from linnet.engine.scheduler import Scheduler

PROMPTS = [[int(t) for t in np.random.default_rng(n).integers(0, VOCAB, n)] for n in (1, 2, 7, 31, 64, 100)]


def ops_of(engine: Engine) -> MockOps:
    ops = engine.ops
    assert isinstance(ops, MockOps)
    return ops


@pytest.mark.parametrize("prefill_chunk", [1, 40, 512])
def test_they_are_never_cut(prefill_chunk: int) -> None:
    """Whatever the chunk: the mock's rows read ahead in the prompt, so a cut one would give other tokens."""
    expected = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(9):
            tokens.append(int(np.argmax(mock_logits(tokens, len(prompt) + 9))))
        expected.append(tokens[len(prompt) :])
    for cache in (True, False):
        engine = mock_engine(prefill_chunk=prefill_chunk, bidirectional=True)
        assert run(engine, *[request(p, max_tokens=9, temperature=0.0, cache=cache) for p in PROMPTS]) == expected
        assert max(ops_of(engine).longest) >= 100


def test_their_logits_are_those_of_one_step() -> None:
    found = {}
    for bidirectional in (False, True):
        engine = mock_engine(prefill_chunk=3, bidirectional=bidirectional)
        r = request(PROMPTS[3], max_tokens=0)
        rows = found[bidirectional] = np.zeros((31, VOCAB), np.float32)

        def keep(position: int, values: np.ndarray, rows: np.ndarray = rows) -> None:
            rows[position : position + len(values)] = values

        r.prompt_logits = keep
        run(engine, r)
        for position, row in enumerate(rows):
            last = max(position, 29) if bidirectional else position
            np.testing.assert_array_equal(row, mock_logits(PROMPTS[3][: last + 1], 31))
    np.testing.assert_array_equal(found[True][29:], found[False][29:])


def test_only_as_many_run_together_as_a_step_has_room_for() -> None:
    """One that is longer than a step runs alone; shorter ones share steps; decoding rows run in all of them."""
    engine = mock_engine(prefill_chunk=40, bidirectional=True)
    lengths = [100, 20, 20, 20, 50, 10]
    run(engine, *[request(list(range(n % VOCAB)) + [1] * (n - n % VOCAB), max_tokens=30) for n in lengths])
    steps = ops_of(engine).steps
    assert steps[:4] == [100, 1 + 20 + 20, 3 + 20 + 10, 5 + 50]
    assert max(steps) == 100


def test_scored_prompts_do_not_gather_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they want of logits is bounded, but for one that wants more by itself."""
    monkeypatch.setattr("linnet.engine.engine.PROMPT_LOGIT_BYTES", 4 * VOCAB * 25)
    engine = mock_engine(prefill_chunk=512, bidirectional=True)
    requests = [request([1] * n, max_tokens=0) for n in (10, 10, 10, 60)]
    for r in requests:
        engine.submit(r)
    for r in requests:
        list(engine.outputs(r))
        assert r.prompt_logprobs is not None
    assert ops_of(engine).wanted == [20, 10, 60]


def test_a_scheduler_without_requests_plans_nothing() -> None:
    assert Scheduler(PagePool([1]), 32, 1, 8, 8, lambda source, target, group: None, whole_prompts=True).plan() == []
