"""Any sequence of events: no page leaks or is freed twice, nothing starves, budgets are kept, tokens are those of solo runs."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mock_model import CONTEXT, VOCAB, MockOps, mock_engine, mock_logits, request, run, tokens_of
from speculating import GivenCosts, mock_draft
from test_counters import assert_they_add_up

from linnet.engine.pages import GONE, STATE, PageGroup, most_pages
from linnet.engine.request import Request
from linnet.engine.session import Session
from linnet.errors import LinnetError, OutOfMemoryError
from linnet.ops.base import PAGE_SIZE

FEW = dict.fromkeys((3, 5, 8), 30.0)
"""A bias that leaves three tokens, so that lookup finds something."""

SHORT = 70
"""A context that texts slide far past."""

TEXTS = [[int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, 150)] for seed in range(3)]


arrivals = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2]),  # which text it begins with
    st.integers(1, 150),  # how much of it
    st.fixed_dictionaries(
        {
            "max_tokens": st.integers(0, 60),
            "temperature": st.sampled_from([0.0, 0.9]),
            "n": st.integers(1, 3),
            "num_beams": st.sampled_from([1, 1, 1, 2, 3]),
            "stop_token_ids": st.sampled_from([[], [], [3, 7]]),
            "priority": st.sampled_from([-1, 0, 0, 0, 2]),
            "cache": st.sampled_from([True, True, True, False]),
            "frequency_penalty": st.sampled_from([0.0, 0.3]),
            "logit_bias": st.sampled_from([{}, FEW]),
            "speculation": st.sampled_from(["auto", "lookup", "draft", "off"]),
        }
    ),
)


class EngineMachine(RuleBasedStateMachine):
    """Requests and sessions come and go, steps fail, and after each event all is accounted for."""

    @initialize(
        pages=st.tuples(st.sampled_from([7, 8, 10, 13, 24]), st.sampled_from([3, 5, 7, 12, 24]), st.sampled_from([2, 3, 5, 9])),
        chunk=st.sampled_from([1, 5, 32, 100, 512]),
        batch=st.integers(1, 5),
        prefixes=st.booleans(),
        slides=st.booleans(),
        windows=st.sampled_from(
            [
                (None,),
                (None,),
                (1,),
                (70,),
                (None, 40),
                (None, 1),
                (70, 33),
                (None, 64, 5),
                (STATE,),
                (None, STATE),
                (70, STATE),
                (None, 5, STATE),
            ]
        ),
        errs=st.sampled_from([None, None, 0.0, 0.3, 1.0]),
    )
    def open(
        self,
        pages: tuple[int, ...],
        chunk: int,
        batch: int,
        prefixes: bool,
        slides: bool,
        windows: tuple[int | None, ...],
        errs: float | None,
    ) -> None:
        """errs: how often a draft model is wrong; None: there is none."""
        self.chunk, self.batch = chunk, batch
        errs = None if STATE in windows else errs  # a state cannot be taken back
        self.engine = mock_engine(
            context=SHORT if slides and chunk >= 32 else CONTEXT,  # all of it is computed again for each token
            pages=pages[: len(windows)],
            prefill_chunk=chunk,
            max_batch=batch,
            prefix_cache=prefixes,
            slides=slides,
            windows=windows,
            draft=None if errs is None else mock_draft(errs, window=windows[0]),
        )
        self.engine.speculator.costs = GivenCosts(0.05)
        self.ops: MockOps = self.engine.ops  # type: ignore[assignment]
        self.requests: list[tuple[Request, dict[str, Any]]] = []
        self.sessions: list[Session] = []

    # ---- events
    @rule(asked=st.lists(arrivals, min_size=1, max_size=4))
    def submit(self, asked: list[tuple[int, int, dict[str, Any]]]) -> None:
        for text, length, options in asked:
            options = self.fitted(options)
            made = request(TEXTS[text][:length], seed=len(self.requests), **options)
            try:
                self.engine.submit(made)
            except LinnetError:  # past what the pool holds
                continue
            self.requests.append((made, options))

    def fitted(self, options: dict[str, Any]) -> dict[str, Any]:
        """Without what does not go together; and no chunks of a few rows where all is computed again for each token."""
        options = {**options, "cache": options["cache"] or self.chunk < 32}
        if options["num_beams"] > 1:
            options |= {"n": min(options["n"], options["num_beams"]), "speculation": "auto"}
        elif self.engine.pool.has_states or (options["speculation"] == "draft" and self.engine.speculator.draft is None):
            options["speculation"] = "auto"
        return options

    @rule(steps=st.integers(1, 60))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            before = self.first_running()
            rows = len(self.ops.steps)
            self.engine._drive(lambda: False)
            if before is not None and not self.overtaken(before[0], before[2]):
                sequence, progress, _ = before
                assert progress != self.progress(sequence) or sequence.request.done, "the first in order stood still"
            self.check_budgets(rows)
            self.pages_are_accounted_for()

    @precondition(lambda self: self.live())
    @rule(which=st.integers(0, 20), fails=st.sampled_from([None, None, "a step", "the draft model", "Ctrl-C"]))
    def disturb(self, which: int, fails: str | None) -> None:
        """A request is cancelled, or a step fails, or is interrupted when it is all but done; or the draft model in its next step, and the
        engine goes on without."""
        live, draft = self.live(), self.engine.speculator.draft
        if fails is None:
            self.engine.cancel(live[which % len(live)])
        elif fails == "a step":
            self.ops.fail = MemoryError("no memory")
            self.engine._drive(lambda: False)
            self.ops.fail = None
        elif fails == "Ctrl-C":
            self.ops.interrupt = True
            with suppress(KeyboardInterrupt):
                self.engine._drive(lambda: False)
            self.ops.interrupt = False
        elif draft is not None:
            draft.ops.fail = MemoryError("no memory")  # type: ignore[attr-defined]

    @rule(capacity=st.integers(1, CONTEXT))
    def open_session(self, capacity: int) -> None:
        capacity = min(capacity, self.engine.context)
        try:
            self.sessions.append(Session(self.engine, capacity))
        except OutOfMemoryError:
            assert any(group.promised for group in self.engine.pool.groups) or self.live() or not self.fits(capacity)

    def fits(self, capacity: int) -> bool:
        return all(most_pages(capacity, group.window, self.chunk) <= group.count for group in self.engine.pool.groups)

    @precondition(lambda self: self.sessions)
    @rule(
        which=st.integers(0, 20), count=st.integers(1, 80), back=st.integers(0, 80), then=st.sampled_from([None, "fork", "close", "close"])
    )
    def use_session(self, which: int, count: int, back: int, then: str | None) -> None:
        session = self.sessions[which % len(self.sessions)]
        session.rollback(min(back, session.length))
        count = min(count, session.capacity - session.length)
        if count:
            [logits] = session.forward(TEXTS[which % 3][:count], last=1)
            np.testing.assert_array_equal(logits, mock_logits(list(session.token_ids)[-(self.ops.windows[0] or 0) :], session.capacity))  # type: ignore[arg-type]
        if then == "close":
            self.sessions.pop(which % len(self.sessions)).close()
        elif then == "fork":
            try:
                self.sessions.append(session.fork())
            except OutOfMemoryError:
                return

    # ---- what holds after each
    @invariant()
    def pages_are_accounted_for(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler = self.engine.scheduler
        for number, group in enumerate(self.engine.pool.groups):
            self.group_is_accounted_for(number, group)
        assert len(scheduler.running) <= self.batch
        assert all(not any(sequence.pages) and sequence.slot == -1 for sequence in scheduler.waiting)

    def group_is_accounted_for(self, number: int, group: PageGroup) -> None:
        scheduler = self.engine.scheduler
        held = [sequence.pages[number] for sequence in scheduler.running] + [r.trunk[number] for r in scheduler.trunks]
        held = [[page for page in pages if page != GONE] for pages in held]
        own = [pages[number] for session in self.sessions for pages in session._pages._held]
        own = [[page for page in pages if page != GONE] for pages in own]
        for pages in held + own:
            assert len(set(pages)) == len(pages)
        assert not {page for pages in held for page in pages} & {page for pages in own for page in pages}
        holders = Counter(page for pages in held + own for page in pages)
        assert {page: count for page, count in enumerate(group._holders) if count} == holders
        promised = sum(session._pages._promised[number] for session in self.sessions)
        unused = promised - len({page for pages in own for page in pages})
        assert group.promised == promised
        assert group.free_count == group.count - len(holders) - unused >= 0
        for sequence in scheduler.running:
            row, pages = scheduler.page_table.entries[number, sequence.slot], sequence.pages[number]
            assert all(entry == page if page != GONE else entry >= 0 or group.has_states for entry, page in zip(row, pages, strict=False))
            assert (row[len(pages) :] == -1).all()
            assert len(pages) - pages.count(GONE) <= sequence.need[number]
            assert len(pages) * PAGE_SIZE >= sequence.computed
            holds = self.states_hold if group.has_states else self.pages_hold
            holds(pages, self.ops.pages[number], sequence, sequence.computed)
            if number == 0 and self.engine.speculator.draft is not None:
                self.pages_hold(pages, self.engine.speculator.draft.ops.pages[0], sequence, sequence.draft_computed)  # type: ignore[attr-defined]

    def pages_hold(self, pages: list[int], stored: np.ndarray, sequence: Any, computed: int) -> None:
        """The mock's keys and values are tokens."""
        for index, page in enumerate(pages[: -(-computed // PAGE_SIZE)]):
            if page != GONE:
                first = index * PAGE_SIZE
                count = min(PAGE_SIZE, computed - first)
                assert stored[page, :count].tolist() == sequence.tokens[sequence.start + first :][:count]

    def states_hold(self, pages: list[int], stored: np.ndarray, sequence: Any, computed: int) -> None:
        for index, page in enumerate(pages[: -(-computed // PAGE_SIZE)]):
            if page != GONE:
                count = min((index + 1) * PAGE_SIZE, computed)
                assert stored[page, : 1 + count].tolist() == [count, *sequence.tokens[sequence.start :][:count]]

    @invariant()
    def counters_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        counters = self.engine.counters()
        assert_they_add_up(counters)
        assert counters.submitted == len(self.requests)
        assert counters.submitted - sum(counters.outcomes.values()) == len(self.live())

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for session in self.sessions:
            session.close()
        self.sessions.clear()
        for _ in range(100_000):
            if not self.live():
                break
            self.step(1)
        assert not self.live()
        self.pages_are_accounted_for()
        assert self.engine.pool.free_count == self.engine.pool.count
        assert [*self.engine.scheduler.running, *self.engine.scheduler.waiting, *self.engine.scheduler.trunks] == []
        shape: dict[str, Any] = {"context": self.engine.context, "slides": self.engine.slides, "windows": self.ops.windows}
        alone = mock_engine(max_batch=3, prefill_chunk=512, prefix_cache=False, **shape)
        for made, options in self.requests:
            plain = request(made.prompt, seed=made.seed, **{**options, "speculation": "off"})
            found, whole = tokens_of(made, list(made.outputs)), run(alone, plain)
            complete = made.error is None and made.unfinished == 0
            assert found == whole if complete else all(w[: len(f)] == f for w, f in zip(whole, found, strict=True))

    # ---- helpers
    def live(self) -> list[Request]:
        return [made for made, _ in self.requests if not made.done]

    def first_running(self) -> tuple[Any, list[tuple[int, int]], list[Any]] | None:
        """It, how far it is, and what waits with a higher priority."""
        running = self.engine.scheduler.running
        if not running:
            return None
        waiting = [*self.engine.scheduler.waiting, *(made.sequences[0] for made in self.engine._stepping.arrived)]
        return running[0], self.progress(running[0]), [other for other in waiting if other.order < running[0].order]

    def progress(self, sequence: Any) -> list[tuple[int, int]]:
        """How far a sequence is; of a beam, how far its search."""
        together = [sequence] if sequence.request.beams is None else sequence.request.sequences
        return [(each.generated, each.computed) for each in together]

    def overtaken(self, sequence: Any, waited: list[Any]) -> bool:
        """By one that came with a higher priority, and may have ended in the same step."""
        scheduler = self.engine.scheduler
        return any(other.order < sequence.order for other in scheduler.running) or any(other not in scheduler.waiting for other in waited)

    def check_budgets(self, step: int) -> None:
        """A step has the rows of as many prompts as it may, and one for each sequence that decodes."""
        if len(self.ops.steps) > step:
            assert self.ops.sequences[-1] <= self.batch
            assert self.ops.steps[-1] <= self.chunk + self.batch


class LongMachine(EngineMachine):
    """The same at length."""


EngineMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=14, deadline=None)
LongMachine.TestCase.settings = settings(max_examples=2000, stateful_step_count=30, deadline=None)
TestEngine = EngineMachine.TestCase
TestEngineAtLength = pytest.mark.slow(LongMachine.TestCase)
