"""`TransformersEngine`: runs requests by transformers' `generate`, in a thread that is there as long as there is something to do."""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linnet.backends.transformers.generation import Generation, Row
from linnet.backends.transformers.model import TextModel
from linnet.backends.transformers.settings import batch_key, check, generation_settings
from linnet.engine.admission import Admission
from linnet.engine.counters import Counters, Outcome, Tally
from linnet.engine.driver import Driver
from linnet.engine.engine import PRIORITY_PLACES
from linnet.engine.memory_errors import step_error
from linnet.engine.request import Output, Request
from linnet.engine.runner import Runner
from linnet.errors import ClosedError, DeadlineError, LinnetError

logger = logging.getLogger("linnet.engine")

_LOST = 1.0
"""Seconds after which a waiter looks again: Ctrl-C can lose the call that wakes it."""


@dataclass(frozen=True)
class _Waiting:
    """place: what is smaller runs earlier. rows: how many of a batch it takes. settings: what its GenerationConfig is to say. key: those
    of equal keys can run together."""

    place: int
    request: Request
    rows: int
    settings: dict[str, Any]
    key: Any


class TransformersEngine(Runner):
    """Requests of equal settings that wait at the same time run in one batch of up to `max_batch` rows, each to its own end;
    draws are each request's own. What comes while a batch runs waits for its end."""

    def __init__(self, model: TextModel, max_batch: int, max_queue: int | None) -> None:
        self.context, self.max_batch = model.context, max_batch
        self._model: TextModel | None = model
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._driver = Driver(self._lock, self._drive)
        self._waiting: list[_Waiting] = []
        self._unfinished: set[Request] = set()
        self._running = 0
        self._submitted = 0
        self._tally = Tally()
        self._admission = Admission(max_batch, max_queue, self._tally)
        self._step_at = 0.0
        self._thread: threading.Thread | None = None

    def check(self, request: Request) -> None:
        """Raises InvalidRequestError and ContextLengthError where the request can never be honoured, ClosedError after `close`."""
        check(request, self._open(), self.max_batch)

    def submit(self, request: Request) -> None:
        """Checks the request and puts it last in the queue; `outputs` then gives its tokens."""
        self.check(request)
        request.submitted_at = time.perf_counter()
        with self._lock:
            settings = generation_settings(request, self._open())
            generates = settings["max_new_tokens"] > 0  # else only the first sample scores the prompt
            request.unfinished = request.params.n if generates else 1
            rows = max(request.params.n, request.params.num_beams) if generates else 1
            self._admission.admit(self._running + sum(entry.rows for entry in self._waiting))
            self._tally.submit()
            self._submitted += 1
            self._unfinished.add(request)
            place = self._submitted + PRIORITY_PLACES * request.params.priority
            self._waiting.append(_Waiting(place, request, rows, settings, batch_key(request, settings, self._open())))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="linnet transformers", daemon=True)
                atexit.register(self._stop)
                self._thread.start()

    def advance(self, request: Request, until: float = math.inf) -> None:
        """Waits until the request has outputs or is done, or time.perf_counter() is `until`."""
        self._drive(lambda: bool(request.outputs) or request.done, until)

    async def wait(self, request: Request) -> None:
        """The same, without holding the event loop up."""
        self._admission.check_process()
        await self._driver.wait(request)

    def cancel(self, request: Request) -> None:
        """Ends a request, if it still runs: after the step that it is in, at the latest."""
        with self._lock:
            self._end(request, "cancelled")
        self._wake()

    def counters(self) -> Counters:
        """What was done so far, and what there is now. There are no pages here."""
        with self._lock:
            waiting = sum(entry.rows for entry in self._waiting)
            now = {"preemptions": 0, "running": self._running, "waiting": waiting, "pages": 0, "pages_used": 0, "pages_cached": 0}
        return self._tally.counters(**now)

    def drain(self, until: float = math.inf) -> bool:
        """Refuses new requests from now on, and runs those that there are; whether all were done by the time `until`."""
        self._open()
        self._admission.draining = True
        self._drive(lambda: not self._unfinished, until)
        return not self._unfinished

    def close(self) -> None:
        """Fails what still runs with ClosedError and gives the model back. Closing twice is no error."""
        self._refuse_own_thread()
        self._stop()
        self._model = None

    def _open(self) -> TextModel:
        self._admission.check_open()
        assert self._model is not None  # `close` marks the engine as closed first
        return self._model

    def _drive(self, enough: Callable[[], bool], until: float = math.inf) -> None:
        """Waits for what the thread does."""
        self._admission.check_process()
        self._refuse_own_thread()
        with self._changed:
            while not enough() and (left := until - time.perf_counter()) > 0:
                self._changed.wait(min(_LOST, left))

    def _work(self) -> None:
        """The thread: one batch after another, until nothing waits."""
        while batch := self._next_batch():
            requests = [entry.request for entry in batch]
            problem: Exception = LinnetError("transformers ended the answer before its end")
            try:
                self._generate(requests, batch[0].settings)
            except BaseException as error:  # SystemExit in a caller's callable, say: the thread serves others, too
                logger.exception("generating for %d requests failed", len(requests))
                problem = _problem(error)
            with self._lock:
                self._running = 0
                for request in requests:
                    self._fail(request, problem)  # unless it is done
            self._wake()
            del batch, requests, problem  # they hold what the batch has taken

    def _next_batch(self) -> list[_Waiting]:
        """Takes what runs next out of the queue; nothing, and the thread ends."""
        with self._lock:
            self._end_late()
            self._waiting.sort(key=lambda entry: entry.place)
            if not self._waiting or self._admission.closed:
                self._thread = None
                atexit.unregister(self._stop)
                return []
            batch, rows = [], 0
            for entry in self._waiting:
                if entry.key == self._waiting[0].key and rows + entry.rows <= self.max_batch:
                    batch.append(entry)
                    rows += entry.rows
            self._waiting = [entry for entry in self._waiting if entry not in batch]
            self._running, self._step_at = rows, time.perf_counter()
            for request in (entry.request for entry in batch):
                request.started = True
                self._tally.start(self._step_at - request.submitted_at, len(request.prompt), 0)
            return batch

    def _generate(self, requests: list[Request], settings: dict[str, Any]) -> None:
        assert self._model is not None  # close() waits for the thread
        generation = Generation(self._model, requests, settings, self._emit, self._fail, self._stepped)
        generation.score_prompts()
        if settings["max_new_tokens"] == 0:
            for request in requests:
                self._put(request, Output(0, None, None, "length", time.perf_counter()))
            self._wake()
        else:
            generation.run()

    def _emit(self, row: Row, output: Output) -> None:
        self._tally.generate(output.at - (row.last_at or row.request.submitted_at), first=row.last_at is None)
        row.last_at = output.at
        self._put(row.request, output)

    def _put(self, request: Request, output: Output) -> None:
        with self._lock:
            request.outputs.append(output)
            if output.finish_reason is not None:
                self._tally.finish(output.finish_reason)
                request.unfinished -= 1
            if request.unfinished == 0:
                self._end(request, "finished")

    def _stepped(self, rows: int) -> None:
        now = time.perf_counter()
        self._tally.run(rows, now - self._step_at, now - self._step_at)
        self._step_at = now
        self._end_late()
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._driver.wake()

    def _end_late(self) -> None:
        """Fails requests whose time is over."""
        with self._lock:
            for request in tuple(self._unfinished):
                seconds = request.params.timeout
                if seconds is not None and time.perf_counter() >= request.submitted_at + seconds:
                    self._fail(request, DeadlineError(f"the request was not done within its timeout of {seconds:g} seconds; allow it more"))

    def _fail(self, request: Request, error: Exception) -> None:
        with self._lock:
            if not request.done:
                request.error = error
                self._end(request, "timed_out" if isinstance(error, DeadlineError) else "failed")

    def _end(self, request: Request, outcome: Outcome) -> None:
        if not request.done:
            request.done = True
            self._unfinished.discard(request)
            self._waiting = [entry for entry in self._waiting if entry.request is not request]
            self._tally.end(outcome, time.perf_counter() - request.submitted_at)

    def _stop(self) -> None:
        """Ends the thread after the step that it is in: when the process ends, PyTorch must not be in the middle of one."""
        with self._lock:
            self._admission.closed = True
            for request in tuple(self._unfinished):
                self._fail(request, ClosedError("the LLM was closed while this request ran"))
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join()

    def _refuse_own_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise LinnetError("a logits_processor may not use the LLM that called it: it would wait for itself")


def _problem(error: BaseException) -> Exception:
    """What the requests of a batch fail with."""
    if isinstance(error, Exception):
        return step_error(error, "lower max_tokens or max_batch")
    return LinnetError(f"the request was interrupted by {type(error).__name__} in a step; submit it again")
