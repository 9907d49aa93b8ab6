"""A step: what is due is planned, run as one batch, and its logits become tokens. Only the thread that has the turn comes here."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice, repeat
from typing import TypeAlias

from linnet.engine.batch import Chunk, batch_of
from linnet.engine.beams import BeamSearch
from linnet.engine.counters import Outcome, Tally
from linnet.engine.memory_errors import step_error
from linnet.engine.request import FinishReason, Output, Request, Sequence
from linnet.engine.sampling import token_logprob
from linnet.engine.scheduler import Scheduler
from linnet.engine.speculative import Speculator
from linnet.errors import DeadlineError, LinnetError
from linnet.ops.base import DeviceLogits, DeviceStep, Draw, Logits, Step, on_host

logger = logging.getLogger("linnet.engine")

Drawn: TypeAlias = dict[Sequence, list[int]]
"""The tokens that an op set drew for some of a step's sequences."""


class Stepping:
    """Runs the requests of a scheduler, step by step.

    unfinished: every request that was submitted and is not done; added to by any thread, under the engine's lock.
    arrived: requests for the next step to take in, and timed: those that have a deadline; both are filled by any thread, `timed` under
    the engine's lock. accepting: whether a caller's own callable may be running. run, run_hidden: forwards that give logits, and hidden
    states; None once the engine is closed.
    """

    def __init__(self, scheduler: Scheduler, speculator: Speculator, tally: Tally, run: Step, run_hidden: Step, context: int) -> None:
        self.scheduler = scheduler
        self.speculator = speculator
        self.tally = tally
        self.run: Step | None = run
        self.run_hidden: Step | None = run_hidden
        self.context = context
        self.unfinished: set[Request] = set()
        self.arrived: deque[Request] = deque()
        self.timed: deque[tuple[float, Request]] = deque()
        self.accepting = False

    def step(self) -> None:
        """One forward over whatever is due. What goes wrong in it fails the requests in it, and no others."""
        self._end_late()
        while self.arrived:
            request = self.arrived.popleft()
            if not request.done:  # cancelled meanwhile
                self.scheduler.add(request.sequences[0])
        plan: list[Chunk] = []
        try:
            self._run_due(plan)
        except Exception:
            raise
        except BaseException:
            self._begin_anew(plan)
            raise

    def _run_due(self, plan: list[Chunk]) -> None:
        """Plans a step and runs it. plan: where it is noted, empty at first."""
        begun = time.perf_counter()
        try:
            plan += self.scheduler.plan()
            if not plan:
                return
            plan[:] = self.speculator.extend(plan)
            self._note(plan)
            ready = time.perf_counter()
            results = self._run(plan)
        except Exception as error:
            logger.exception("step of %d sequences failed", len(plan))
            problem = step_error(error, "lower max_batch, prefill_chunk or context")
            for request in {chunk.sequence.request for chunk in plan} or tuple(self.unfinished):
                self.fail(request, problem)
            return
        computed = time.perf_counter()
        self.speculator.record(plan, computed - ready)
        self._take(plan, results)
        self.tally.run(len(plan), time.perf_counter() - begun, computed - ready)

    def _take(self, plan: list[Chunk], results: list[tuple[list[Chunk], Logits, Drawn]]) -> None:
        """What follows from a step's results."""
        for part, result, drawn in results:
            row = 0
            for chunk in part:
                rows = result[row : row + chunk.rows]
                row += chunk.rows
                if not chunk.sequence.request.done:  # else another of its samples has just failed
                    self._serve(chunk.sequence.request, partial(self._accept, chunk, rows, drawn.get(chunk.sequence)))
        for request in dict.fromkeys(chunk.sequence.request for chunk in plan):
            if request.beams is not None and request.beams.is_due and not request.done:
                self._serve(request, partial(self._advance_beams, request, request.beams))

    def _begin_anew(self, plan: list[Chunk]) -> None:
        """After Ctrl-C in whoever has the turn, which ends a step anywhere. Keys and values are then written a second time, and are the
        same; states of recurrent layers would go on a second time, so that their sequences begin again."""
        if self.scheduler.pool.has_states:
            for sequence in (chunk.sequence for chunk in plan):
                if sequence.slot >= 0:
                    self.scheduler.put_back(sequence)

    def _run(self, plan: list[Chunk]) -> list[tuple[list[Chunk], Logits, Drawn]]:
        """The rows that those of the plan get who want logits, and those who want hidden states: one forward each; and the tokens that
        the op set has drawn already."""
        assert self.run is not None  # Engine.close failed every request
        assert self.run_hidden is not None
        hidden = [chunk for chunk in plan if chunk.sequence.request.hidden]
        if not hidden:
            return [self._run_logits(plan)]
        others = [chunk for chunk in plan if not chunk.sequence.request.hidden]
        states = self.run_hidden(batch_of(hidden, self.scheduler.page_table.tables))
        return [(hidden, states, {}), *([self._run_logits(others)] if others else [])]

    def _run_logits(self, plan: list[Chunk]) -> tuple[list[Chunk], Logits, Drawn]:
        assert self.run is not None
        batch = batch_of(plan, self.scheduler.page_table.tables)
        if not isinstance(self.run, DeviceStep):
            return plan, self.run(batch), {}
        logits = self.run.on_device(batch)
        return plan, logits, _drawn(plan, logits)

    def fail(self, request: Request, error: Exception) -> None:
        if not request.done:
            request.error = error
            self.drop(request)

    def drop(self, request: Request) -> None:
        """Ends a request, wherever it stands, and frees what it held."""
        if not request.done:
            with suppress(ValueError):  # one that no step has taken in yet must not fill the queue until the next
                self.arrived.remove(request)
            for sequence in request.sequences:
                self.scheduler.remove(sequence)
            self.scheduler.end_trunk(request)
            self._end(request, _OUTCOMES.get(type(request.error), "failed"))
            logger.debug("request dropped: %s", request.error or "cancelled")

    def _end_late(self) -> None:
        """Fails requests whose time is over."""
        now = time.perf_counter()
        for _ in range(len(self.timed)):
            deadline, request = entry = self.timed.popleft()
            if deadline <= now:
                seconds = request.params.timeout
                self.fail(request, DeadlineError(f"the request was not done within its timeout of {seconds:g} seconds; allow it more"))
            if not request.done:
                self.timed.append(entry)

    def _note(self, plan: list[Chunk]) -> None:
        """What is about to run, for the counters and the log."""
        for request in (chunk.sequence.request for chunk in plan):
            if not request.started:
                request.started = True
                self.tally.start(time.perf_counter() - request.submitted_at, len(request.prompt), request.cached_tokens)
        if logger.isEnabledFor(logging.DEBUG):
            waiting, free = len(self.scheduler.waiting), self.scheduler.pool.free_count
            logger.debug("step: %d sequences; %d wait, %d pages free", len(plan), waiting, free)

    def _serve(self, request: Request, task: Callable[[], None]) -> None:
        """Does for a request what follows a step; what a caller's callable does wrong there fails this request alone."""
        try:
            self.accepting = True
            task()
        except Exception as error:
            self.fail(request, error)
        except BaseException:  # Ctrl-C in whoever has the turn: this token may be half taken, the others' are not touched
            self.fail(request, LinnetError("the request was interrupted while its token was chosen; submit it again"))
            raise
        finally:
            self.accepting = False

    def _accept(self, chunk: Chunk, rows: Logits, drawn: list[int] | None) -> None:
        """Hands prompt logits out, and chooses the next token where it is due, and those after it as long as they are what was guessed.
        drawn: these tokens, where the op set drew them."""
        sequence, request = chunk.sequence, chunk.sequence.request
        owed = sequence.owed(chunk.count)
        if owed:
            assert request.prompt_logits is not None
            request.prompt_logits(sequence.scored, on_host(rows[len(rows) - owed :]))
            sequence.scored += owed
        self.scheduler.advance(sequence, chunk.count)
        if sequence.lacking:
            return
        if request.beams is not None:
            request.beams.report(sequence, on_host(rows[-1:])[0])
            return
        if sequence.index == 0 and not sequence.generated and len(request.sequences) > 1:
            self.scheduler.fork(sequence)
        if sequence.limit == 0:
            self._emit(sequence, Output(0, None, None, "length", time.perf_counter()))
            return
        came = 0
        for row, guess in enumerate([*chunk.guesses, None], chunk.wanted - 1):
            token = None if drawn is None else drawn[row - chunk.wanted + 1]
            self._choose(sequence, rows[row : row + 1], token)
            came += sequence.tokens[-1] == guess
            if sequence.tokens[-1] != guess or sequence.slot < 0:
                break
            self.scheduler.advance(sequence, 1)
        if chunk.guesses:
            self.speculator.settle(chunk, came)
            self.tally.draft(len(chunk.guesses), came)

    def _choose(self, sequence: Sequence, logits: Logits, drawn: int | None) -> None:
        """The next token of a sequence whose pages hold all of it, from the logits [1, vocab] after its last; or as it was drawn."""
        top = sequence.request.params.logprobs
        if drawn is not None and drawn >= 0:
            token, logprob = sequence.sampler.take(drawn), None
        else:
            [row] = on_host(logits)
            token = sequence.sampler.next_token(row, sequence.tokens, sequence.generated)
            logprob = None if top is None else token_logprob(row, token, top)
        sequence.append(token, self.context)
        reason = _finish_reason(sequence, token)
        self._emit(sequence, Output(sequence.index, token, logprob, reason, time.perf_counter()))

    def _advance_beams(self, request: Request, beams: BeamSearch) -> None:
        """Once every beam has its logits. At the end, the best of what was found are the request's samples: all their tokens come now."""
        beams.advance(self.scheduler)
        if not beams.over:
            return
        found = beams.finished[: request.params.n]
        request.unfinished, request.beam_scores = len(found), [hypothesis.score for hypothesis in found]
        now = time.perf_counter()
        for sequence in request.sequences:
            self.scheduler.remove(sequence)
        for index, hypothesis in enumerate(found):
            logprobs = hypothesis.logprobs or repeat(None)
            for token, logprob, left in zip(hypothesis.tokens, logprobs, range(len(hypothesis.tokens) - 1, -1, -1), strict=False):
                if token not in request.ends and request.stop_rule is not None:
                    request.stop_rule(index, token)
                self._emit(request.sequences[index], Output(index, token, logprob, None if left else hypothesis.reason, now))

    def _emit(self, sequence: Sequence, output: Output) -> None:
        request = sequence.request
        if output.token_id is not None:
            first = sequence.last_at is None
            self.tally.generate(output.at - (sequence.last_at or request.submitted_at), first)
            sequence.last_at = output.at
        if output.finish_reason is not None:
            self.scheduler.remove(sequence)
            self.tally.finish(output.finish_reason)
            request.unfinished -= 1
        request.outputs.append(output)
        if request.unfinished == 0:
            self._end(request, "finished")

    def _end(self, request: Request, outcome: Outcome) -> None:
        self.unfinished.discard(request)
        self.tally.end(outcome, time.perf_counter() - request.submitted_at)
        request.done = True


def _drawn(plan: list[Chunk], logits: DeviceLogits) -> Drawn:
    """The next tokens of those of a step's sequences that want one and no more, drawn where the logits are: of each the token, and those
    after its guesses."""
    asked: dict[Sequence, list[Draw]] = {}
    places: list[int] = []
    row = 0
    for chunk in plan:
        sequence, first = chunk.sequence, row + chunk.wanted - 1
        row += chunk.rows
        if chunk.count < sequence.lacking or not sequence.limit:
            continue
        length, made = len(sequence.tokens), sequence.generated
        draws = [sequence.sampler.draw(length + i, made + i, i) for i in range(1 + len(chunk.guesses))]
        found = [draw for draw in draws if draw is not None]
        if len(found) == len(draws):
            asked[sequence] = found
            places += range(first, first + len(found))
    tokens = iter(logits.draw(places, [draw for draws in asked.values() for draw in draws]) if asked else ())
    return {sequence: list(islice(tokens, len(draws))) for sequence, draws in asked.items()}


_OUTCOMES: dict[type, Outcome] = {type(None): "cancelled", DeadlineError: "timed_out"}


def _finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
    request = sequence.request
    if token in request.ends:
        return "stop"
    stopped = request.stop_rule is not None and request.stop_rule(sequence.index, token)
    if stopped or sequence.sampler.finished:
        return "stop"
    return "length" if sequence.generated == sequence.limit else None
