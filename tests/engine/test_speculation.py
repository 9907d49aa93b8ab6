"""Speculation: no token changes, whatever is guessed; guesses that come save steps; those that do not cost little."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import VOCAB, MockOps, mock_engine, request, run, tokens_of
from speculating import mock_draft, seconds_of, speculating_engine

from linnet.engine.draft_model import DraftModel
from linnet.engine.engine import Engine
from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.errors import InvalidRequestError

FEW = dict.fromkeys((3, 5, 8), 30.0)
"""A bias that leaves three tokens, which come again and again in an order that nobody foresees."""


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


def copying(period: int) -> Any:
    """A logits_processor that has the last `period` tokens said again."""

    def process(tokens: list[int], logits: np.ndarray) -> np.ndarray:
        logits[tokens[-period]] += 100
        return logits

    return process


def assert_whole(engine: Engine) -> None:
    assert engine.pool.free_count == engine.pool.count
    assert [*engine.scheduler.running, *engine.scheduler.waiting, *engine.scheduler.trunks] == []
    assert (engine.scheduler.page_table.entries == -1).all()


def steps_of(engine: Engine) -> int:
    ops = engine.ops
    assert isinstance(ops, MockOps)
    return len(ops.steps)


def counts(r: Request) -> tuple[int, int]:
    return sum(s.drafted for s in r.sequences), sum(s.accepted for s in r.sequences)


# ---- what is guessed
def test_a_copy_takes_few_steps() -> None:
    prompt = prompt_of(40)
    options: dict[str, Any] = {"max_tokens": 100, "logits_processor": copying(40)}
    engine = speculating_engine()
    copied = request(prompt, speculation="lookup", **options)
    assert run(engine, copied) == run(mock_engine(), request(prompt, **options))
    drafted, accepted = counts(copied)
    assert accepted > 80
    assert drafted - accepted <= 2
    assert steps_of(engine) <= 20
    assert_whole(engine)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 3])
def test_a_draft_model_that_is_the_model_is_always_right(temperature: float, n: int) -> None:
    options: dict[str, Any] = {"max_tokens": 100, "temperature": temperature, "n": n, "top_p": 0.9}
    engine = speculating_engine(draft=mock_draft(), prefill_chunk=70)
    drafted = request(prompt_of(50), speculation="draft", **options)
    assert run(engine, drafted) == run(mock_engine(), request(prompt_of(50), **options))
    guessed, came = counts(drafted)
    assert came == guessed
    assert came > 80 * n
    assert_whole(engine)


def test_one_that_errs_is_right_as_often_as_it_says() -> None:
    engine = speculating_engine(draft=mock_draft(0.3))
    drafted = request(prompt_of(50), speculation="draft", max_tokens=140)
    assert run(engine, drafted) == run(mock_engine(), request(prompt_of(50), max_tokens=140))
    guessed, came = counts(drafted)
    assert 0 < came < guessed
    assert steps_of(engine) < 90


def test_a_draft_model_finds_shared_pages_filled() -> None:
    """A second request reads of its prompt what the first did not."""
    draft = mock_draft()
    engine = speculating_engine(draft=draft)
    first = request(prompt_of(97), max_tokens=60, speculation="draft")
    [answer] = run(engine, first)
    read = sum(draft.ops.steps)  # type: ignore[attr-defined]
    second = request([*prompt_of(97), *answer[:40], 1], max_tokens=3, speculation="draft")
    run(engine, second)
    assert second.cached_tokens == 128
    assert sum(draft.ops.steps) - read <= 138 - 128 + 3  # type: ignore[attr-defined]
    assert counts(second)[1] == 1


def test_nothing_is_guessed_where_that_is_not_asked_for_or_cannot_be() -> None:
    for options in ({"speculation": "off"}, {"speculation": "lookup", "cache": False}, {"speculation": "auto", "max_tokens": 1}):
        engine = speculating_engine(draft=mock_draft())
        r = request([1, 2, 3] * 10, **{"max_tokens": 50, "logit_bias": FEW, **options})  # type: ignore[arg-type]
        run(engine, r)
        assert counts(r) == (0, 0)
    with pytest.raises(InvalidRequestError, match=r"speculation='draft' needs a draft model.*open the model with draft="):
        mock_engine().check(request([1], speculation="draft"))
    with pytest.raises(InvalidRequestError, match="speculation is 'eagle'; it must be one of auto, off, lookup, draft"):
        SamplingParams(speculation="eagle")


# ---- what it must not change
def test_callers_see_what_they_would_have_seen() -> None:
    """Processors, choices and stop rules are called in the same order with the same tokens."""
    seen: dict[str, list[Any]] = {}
    for mode in ("off", "lookup", "draft"):
        calls = seen[mode] = []

        def process(tokens: list[int], logits: np.ndarray, calls: list[Any] = calls) -> np.ndarray:
            calls.append(tuple(tokens))
            return logits + np.float32(len(calls) % 3)  # state of its own

        def choose(logits: np.ndarray, calls: list[Any] = calls) -> int:
            calls.append(logits.tobytes())
            return int(np.argmax(logits[:4]))

        def stop(sample: int, token: int, calls: list[Any] = calls) -> bool:
            calls.append((sample, token))
            return len(calls) > 200

        r = request([1, 2, 3, 1, 2], speculation=mode, max_tokens=150, logits_processor=process, choose=choose, logprobs=2)
        r.stop_rule = stop
        engine = speculating_engine(draft=mock_draft(0.5))
        engine.submit(r)
        calls.append(list(engine.outputs(r))[-1].finish_reason)
    assert seen["off"] == seen["lookup"] == seen["draft"]


def test_log_probabilities_are_the_same() -> None:
    found = []
    for mode in ("off", "auto"):
        engine = speculating_engine(draft=mock_draft(0.2))
        r = request(prompt_of(20), speculation=mode, max_tokens=60, logprobs=3, prompt_logprobs=1, logit_bias=FEW, min_tokens=9)
        engine.submit(r)
        found.append(([o.logprob for o in engine.outputs(r)], r.prompt_logprobs))
    assert found[0] == found[1]


def test_past_the_context_it_goes_on_without() -> None:
    def slid(mode: str) -> Request:
        return request([1, 2, 3], max_tokens=120, logit_bias=FEW, speculation=mode)

    engine = speculating_engine(slides=True, context=64, draft=mock_draft())
    guessed = slid("auto")
    assert run(engine, guessed) == run(mock_engine(slides=True, context=64), slid("off"))
    assert 0 < counts(guessed)[1] < 62
    assert_whole(engine)


@pytest.mark.parametrize("windows", [(40,), (None, 33), (70, 33, 5)])
def test_layers_with_windows_guess_beside_beams_with_prefixes_found_and_pages_given_up(windows: tuple[int | None, ...]) -> None:
    """The draft model keeps its own keys and values under the page numbers of the first group, of which it may read any again."""

    def asked(mode: str) -> list[Request]:
        drawn = [request([*prompt_of(97), *prompt_of(n, n)], max_tokens=80, seed=n, n=1 + n % 2, speculation=mode) for n in range(1, 5)]
        return [*drawn, request(prompt_of(100), max_tokens=60, num_beams=3, temperature=0.0, speculation="off")]

    engine = speculating_engine(windows=windows, pages=16, prefill_chunk=32, draft=mock_draft(0.3, window=windows[0]))
    first = asked("draft")[:1]
    found = run(engine, *first)
    rest = asked("draft")[1:]
    found += run(engine, *rest)
    assert found == [answer for r in asked("off") for answer in run(mock_engine(windows=windows, prefix_cache=False), r)]
    guessed, came = np.sum([counts(r) for r in (*first, *rest)], axis=0)
    assert 30 < came < guessed
    assert rest[0].cached_tokens == 96
    assert engine.scheduler.preemptions
    assert_whole(engine)


def test_what_a_callable_does_wrong_in_the_midst_of_guesses_fails_its_request_alone() -> None:
    def process(tokens: list[int], logits: np.ndarray) -> np.ndarray:
        if len(tokens) > 70:
            raise ZeroDivisionError
        return copying(40)(tokens, logits)  # type: ignore[no-any-return]

    engine = speculating_engine()
    wrong, other = (request(prompt_of(40), max_tokens=90, speculation="lookup", logits_processor=p) for p in (process, copying(40)))
    engine.submit(wrong)
    engine.submit(other)
    with pytest.raises(ZeroDivisionError):
        list(engine.outputs(wrong))
    assert tokens_of(other, list(engine.outputs(other))) == run(mock_engine(), request(prompt_of(40), **_options(other)))
    assert_whole(engine)


def _options(r: Request) -> dict[str, Any]:
    return {"max_tokens": r.params.max_tokens, "logits_processor": r.params.logits_processor}


def test_a_draft_model_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    draft = mock_draft()
    engine = speculating_engine(draft=draft)
    r = request(prompt_of(20), max_tokens=80, speculation="auto")
    engine.submit(r)
    stream = engine.outputs(r)
    outputs = [next(stream) for _ in range(20)]
    draft.ops.fail = MemoryError("no more")  # type: ignore[attr-defined]
    with caplog.at_level(logging.ERROR, "linnet.engine"):
        outputs += list(stream)
    assert tokens_of(r, outputs) == run(mock_engine(), request(prompt_of(20), max_tokens=80))
    assert "the draft model failed" in caplog.text
    assert engine.speculator.draft is None
    assert_whole(engine)
    engine.close()


def test_an_interrupted_step_leaves_the_draft_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read its own guesses by then, which no step has settled."""
    engine = speculating_engine(draft=mock_draft())
    r = request(prompt_of(20), max_tokens=80, speculation="draft")
    engine.submit(r)
    stream = engine.outputs(r)
    outputs = [next(stream) for _ in range(20)]
    guess, struck = DraftModel.guess, list[bool]()

    def interrupted(*arguments: Any) -> Any:
        guess(*arguments)
        struck.append(True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DraftModel, "guess", interrupted)
        while not struck and not r.done:
            outputs += [r.outputs.popleft() for _ in range(len(r.outputs))]
            with suppress(KeyboardInterrupt):
                engine.advance(r)
    assert struck
    assert tokens_of(r, [*outputs, *stream]) == run(mock_engine(), request(prompt_of(20), max_tokens=80))
    assert engine.speculator.draft is not None
    assert_whole(engine)


# ---- what it may take
@pytest.mark.parametrize(("chunk", "batch"), [(1, 1), (4, 2), (10, 4)])
def test_guesses_keep_the_budget_of_a_step(chunk: int, batch: int) -> None:
    engine = speculating_engine(prefill_chunk=chunk, max_batch=batch)
    run(engine, *[request(prompt_of(30, n), max_tokens=60, speculation="lookup", logits_processor=copying(30)) for n in range(6)])
    ops = engine.ops
    assert isinstance(ops, MockOps)
    assert max(ops.wanted) > batch
    assert max(ops.steps) <= chunk + batch
    assert_whole(engine)


def test_nobody_gives_way_to_a_guess() -> None:
    """Two that together need all pages but one, and a guess that would need two."""
    engine = speculating_engine(pages=4, prefix_cache=False)
    made = [request(prompt_of(31, n), max_tokens=33, speculation="lookup", logits_processor=copying(31)) for n in range(2)]
    assert run(engine, *made) == [run(mock_engine(), request(r.prompt, **_options(r)))[0] for r in made]
    assert all(counts(r)[1] for r in made)
    assert engine.scheduler.preemptions == 0
    sequence = made[0].sequences[0]
    for _ in range(2):
        assert engine.scheduler.room_for_guesses(sequence, 0) == 0
    assert_whole(engine)


def test_pages_of_guesses_that_did_not_come_are_given_back() -> None:
    engine = speculating_engine(draft=mock_draft(1.0))
    r = request(prompt_of(28), max_tokens=30, temperature=0.0, speculation="draft")
    engine.submit(r)
    for _ in engine.outputs(r):
        assert sum(len(s.pages) for s in engine.scheduler.running) <= 1 + (len(r.sequences[0].tokens) >= 32)
    assert_whole(engine)


@pytest.mark.parametrize("slope", [0.02, 0.1, 0.3, 1.0])
def test_misleading_texts_cost_little(slope: float) -> None:
    """Three tokens in no order: every pair has been seen, and one guess in three comes. The bound is 3% of a plain run."""
    for count in (1, 4):
        engine = speculating_engine(slope, context=2000, pages=400)
        run(engine, *[request([1], max_tokens=400, logit_bias=FEW, seed=n, speculation="auto") for n in range(count)])
        plain = speculating_engine(slope, context=2000, pages=400)
        run(plain, *[request([1], max_tokens=400, logit_bias=FEW, seed=n) for n in range(count)])
        assert seconds_of(engine) <= 1.03 * seconds_of(plain)


def test_rows_that_cost_as_much_as_steps_are_not_spent() -> None:
    engine = speculating_engine(1.0)
    r = request(prompt_of(40), max_tokens=100, speculation="lookup", logits_processor=copying(40))
    run(engine, r)
    assert counts(r) == (0, 0)


@pytest.mark.parametrize("cost", [0.05, 0.2, 2.0])
def test_a_draft_model_that_is_always_wrong_rests(cost: float) -> None:
    draft = mock_draft(1.0, cost)
    engine = speculating_engine(0.05, draft=draft, context=2000, pages=400)
    r = request(prompt_of(20), max_tokens=1000, temperature=0.0, speculation="draft")
    run(engine, r)
    spent = seconds_of(engine) - 1000 + counts(r)[0] * cost
    assert spent <= 30
    assert sum(draft.ops.steps) <= (2 if cost == 2.0 else 1100)  # type: ignore[attr-defined]


# ---- all of it together
mixes = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.integers(0, 3),
            "length": st.integers(1, 90),
            "max_tokens": st.integers(1, 90),
            "temperature": st.sampled_from([0.0, 0.8]),
            "logit_bias": st.sampled_from([{}, FEW, FEW]),
            "repetition_penalty": st.sampled_from([1.0, 1.2]),
            "period": st.sampled_from([None, 1, 7]),
            "n": st.integers(1, 3),
            "speculation": st.sampled_from(["auto", "lookup", "draft", "off"]),
            "wait": st.integers(0, 40),
            "cancelled": st.one_of(st.none(), st.integers(0, 40)),
        }
    ),
    min_size=1,
    max_size=7,
)


def make_requests(mix: list[dict[str, Any]], **more: Any) -> list[Request]:
    made = []
    for seed, drawn in enumerate(mix):
        options = {k: v for k, v in drawn.items() if k not in ("text", "length", "period", "wait", "cancelled")}
        if drawn["period"] is not None and drawn["length"] >= drawn["period"]:
            options["logits_processor"] = copying(drawn["period"])
        made.append(request(prompt_of(90, drawn["text"])[: drawn["length"]], seed=seed, **{**options, **more}))
    return made


@settings(max_examples=35, deadline=None)
@given(
    mix=mixes,
    pages=st.integers(6, 20),
    chunk=st.sampled_from([1, 7, 64]),
    batch=st.integers(1, 8),
    prefixes=st.booleans(),
    errs=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_mix_gives_the_tokens_of_plain_runs(mix: list, pages: int, chunk: int, batch: int, prefixes: bool, errs: float) -> None:
    engine = speculating_engine(draft=mock_draft(errs), pages=pages, prefill_chunk=chunk, max_batch=batch, prefix_cache=prefixes)
    made = make_requests(mix)
    outputs: dict[Request, list] = {r: [] for r in made}
    streams: dict[Request, Any] = {}
    step = 0
    while len(streams) < len(made) or any(streams.values()):
        for drawn, r in zip(mix, made, strict=True):
            if drawn["wait"] == step:
                engine.submit(r)
                streams[r] = engine.outputs(r)
            stream = streams.get(r)
            if stream is None:
                continue
            output = next(stream, None)
            if output is None:
                streams[r] = None
                continue
            outputs[r].append(output)
            if drawn["cancelled"] is not None and len(outputs[r]) > drawn["cancelled"]:
                stream.close()
                streams[r] = None
        step += 1
    assert_whole(engine)
    for drawn, r, plain in zip(mix, made, make_requests(mix, speculation="off"), strict=True):
        alone = run(mock_engine(prefix_cache=False), plain)
        found = tokens_of(r, outputs[r])
        if drawn["cancelled"] is None:
            assert found == alone
        else:
            assert all(whole[: len(part)] == part for whole, part in zip(alone, found, strict=True))
