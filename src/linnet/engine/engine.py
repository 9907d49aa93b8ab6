"""The engine: takes requests, runs steps, gives tokens. It has no thread of its own: whoever waits for tokens drives.

Of all callers that wait, one at a time has the turn: it runs a step for every request there is and wakes the others,
which then find their tokens, or take the next turn. So interleaved streams and threads batch together, and none can
hold another up.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Generator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import ModelSpec
from linnet.engine.check import check_request, most_tokens
from linnet.engine.pages import PagePool, pages_for
from linnet.engine.prefix_cache import PrefixCache
from linnet.engine.request import FinishReason, Output, Request, Sequence
from linnet.engine.sampling import Sampler, token_logprob
from linnet.engine.scheduler import Chunk, Scheduler, batch_of
from linnet.errors import ClosedError, DeadlineError, LinnetError, QueueFullError
from linnet.forward import forward
from linnet.ops.base import Ops, Step
from linnet.weights import Weights

logger = logging.getLogger("linnet.engine")

PRIORITY_PLACES = 100
"""What a step of priority is worth: a request is overtaken by no more than so many later ones, so that none waits for ever."""

PROMPT_LOGIT_BYTES = 64 * 2**20
"""Most bytes of prompt logits made in one step: 32,000 positions of 152,000 entries would take 20 GB at once."""


class Engine:
    """Runs requests over one model, in continuous batches over `pages` KV pages.

    The same request gives the same tokens alone or among others, in any prefill chunks, with its cache or without.
    slides: a request may go on past the context; the model then sees the last tokens that the context holds, their positions
    counted from 0, computed anew for each token. Safe to use from several threads.
    """

    def __init__(
        self,
        ops: Ops,
        spec: ModelSpec,
        weights: Weights,
        *,
        context: int,
        pages: int,
        kv_dtype: str,
        max_batch: int,
        prefill_chunk: int,
        slides: bool = False,
        prefix_cache: bool = True,
        max_queue: int | None = None,
    ) -> None:
        ops.allocate_cache(spec, pages, kv_dtype)
        self.ops = ops
        self.spec = spec
        self._run: Step | None = ops.stepper(spec, partial(forward, ops, spec, weights))
        self.context = context
        self.slides = slides
        self._most_at_once = None if max_queue is None else max_batch + max_queue
        self.pool = PagePool(pages)
        logit_rows = max(1, PROMPT_LOGIT_BYTES // (4 * spec.vocab_size))
        prefixes = PrefixCache(self.pool, spec) if prefix_cache and PrefixCache.suits(spec) else None
        # Rows of a bidirectional prompt see those after them, so that all go into one step.
        whole = spec.bidirectional_prompt
        self.scheduler = Scheduler(self.pool, context, max_batch, prefill_chunk, logit_rows, ops.copy_page, prefixes, whole)
        self._lock = threading.RLock()  # entered as itself: Ctrl-C in the condition's own __enter__ would leave it locked
        self._turn = threading.Condition(self._lock)
        self._driver: int | None = None
        self._accepting = False
        self._submitted = 0
        self._arrived: deque[Request] = deque()  # for whoever has the turn, who alone touches the scheduler
        self._timed: list[tuple[float, Request]] = []  # replaced under the lock
        self._cancelled: deque[Request] = deque()
        self._closed = False
        self._process = os.getpid()

    # ---- what callers use
    def check(self, request: Request) -> None:
        """Raises InvalidRequestError, ContextLengthError or OutOfMemoryError where the request can never be honoured."""
        self._refuse_closed()
        check_request(request, self.spec.vocab_size, self.context, self.slides, self.pool.count)

    def submit(self, request: Request) -> None:
        """Checks the request and puts it last in the queue; `outputs` then gives its tokens."""
        self.check(request)
        limit = most_tokens(request, self.context, self.slides)
        request.submitted_at = time.perf_counter()
        samples = request.params.n if limit else 1  # only the first sample scores the prompt
        for index in range(samples):
            sampler = Sampler(self.ops, request.params, request.seed, index, request.prompt, request.ends)
            need = pages_for(min(len(request.prompt) + limit, self.context))
            sequence = Sequence(request, index, list(request.prompt), limit, need, sampler, scored=request.logits_from)
            sequence.slide(self.context)
            request.sequences.append(sequence)
        request.unfinished = samples
        with self._lock:
            self._refuse_closed()
            self._refuse_full()
            self._submitted += 1
            place = self._submitted + PRIORITY_PLACES * request.params.priority
            for sequence in request.sequences:
                sequence.order = (place, self._submitted, sequence.index)
            if request.params.timeout is not None:
                self._timed.append((request.submitted_at + request.params.timeout, request))
            self._arrived.append(request)
        logger.debug("request: %d prompt tokens, %d samples of up to %d tokens", len(request.prompt), samples, limit)

    def outputs(self, request: Request) -> Generator[Output, None, None]:
        """The outputs of a submitted request as they come, to its end; raises what made it fail. Closing the iterator early
        cancels the request and frees its pages."""
        try:
            while True:
                done = request.done
                while request.outputs:
                    yield request.outputs.popleft()
                if done:
                    if request.error is not None:
                        raise request.error
                    return
                self.advance(request)
        finally:
            self.cancel(request)

    def cancel(self, request: Request) -> None:
        """Ends a request, if it still runs, and frees its pages. May be called at any time and from anywhere, a
        garbage collection in the middle of a step included."""
        if request.done:
            return
        self._cancelled.append(request)
        with self._lock:
            if self._driver is not None:
                return  # whoever has the turn drops the request before giving it up
            self._driver = threading.get_ident()
        self._end_turn()

    def close(self) -> None:
        """Fails what still runs with ClosedError and gives the cache and the weights back. Closing twice is no error."""
        with self._lock:
            if self._closed:
                return
            self._refuse_reentry()
            self._closed = True  # from here on nobody takes the turn, however many tokens are still to come
            while self._driver not in (None, threading.get_ident()):
                self._turn.wait(_LOST)
            self._driver = threading.get_ident()
            admitted = [sequence.request for sequence in [*self.scheduler.running, *self.scheduler.waiting]]
            for request in [*admitted, *self._arrived]:
                self._fail(request, ClosedError("the LLM was closed while this request ran"))
            self.ops.free_cache()
            self._run = None
        self._end_turn()

    # ---- turns
    def advance(self, request: Request, until: float = math.inf) -> None:
        """Waits until the request has outputs or is done, until this thread has run one step itself, or, while another has the turn,
        until time.perf_counter() is `until`."""
        me = threading.get_ident()
        self._refuse_fork()
        self._refuse_reentry()
        try:
            with self._lock:
                while (self._closed or self._driver not in (None, me)) and not request.outputs and not request.done:
                    left = until - time.perf_counter()
                    if left <= 0:
                        return
                    self._turn.wait(min(_LOST, left))
                if request.outputs or request.done:
                    return
                self._driver = me
            self._step()
        finally:
            if self._driver == me:
                self._end_turn()

    def _end_turn(self) -> None:
        """Drops cancelled requests, then gives the turn up and wakes whoever waits for it."""
        self._accepting = False
        while True:
            while self._cancelled:
                self._drop(self._cancelled.popleft())
            with self._lock:
                if not self._cancelled:
                    self._driver = None
                    self._turn.notify_all()
                    return

    def _refuse_reentry(self) -> None:
        """A caller's callable may not come back. The turn alone does not tell: Ctrl-C while a thread gives its turn up leaves it there."""
        if self._accepting and self._driver == threading.get_ident():
            raise LinnetError("a logits_processor, choose or stop callable may not use the LLM that called it: it would wait for itself")

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError("the LLM is closed; open a new one")
        self._refuse_fork()

    def _refuse_full(self) -> None:
        """What runs or waits is counted by samples that have begun or may begin, and there is a place in the batch for each."""
        there = len(self._arrived) + len(self.scheduler.waiting) + len(self.scheduler.running)
        if self._most_at_once is not None and there >= self._most_at_once:
            raise QueueFullError(f"{there} requests run or wait, and max_batch and max_queue allow {self._most_at_once}; try again later")

    def _refuse_fork(self) -> None:
        if self._process != os.getpid():  # the op set's threads are not in this process: an operation would wait for them for ever
            raise LinnetError("the LLM was opened before this process was forked; open one in this process, or start it with 'spawn'")

    # ---- steps: only the thread that has the turn comes here
    def _step(self) -> None:
        """One forward over whatever is due. What goes wrong in it fails the requests in it, and no others."""
        if self._timed:
            self._end_late()
        while self._arrived:
            request = self._arrived.popleft()
            if not request.done:  # cancelled meanwhile
                self.scheduler.add(request.sequences[0])
        plan = self.scheduler.plan()
        if not plan:
            return
        if logger.isEnabledFor(logging.DEBUG):
            waiting, free = len(self.scheduler.waiting), self.pool.free_count
            logger.debug("step: %d sequences; %d wait, %d pages free", len(plan), waiting, free)
        assert self._run is not None  # close() failed every request
        try:
            logits = self._run(batch_of(plan, self.scheduler))
        except Exception as error:
            logger.exception("step of %d sequences failed", len(plan))
            for chunk in plan:
                self._fail(chunk.sequence.request, error)
            return
        row = 0
        for chunk in plan:
            rows = logits[row : row + chunk.wanted]
            row += chunk.wanted
            if chunk.sequence.request.done:  # another of its samples has just failed
                continue
            self._accepting = True
            try:
                self._accept(chunk, rows)
            except Exception as error:
                self._fail(chunk.sequence.request, error)
            except BaseException:  # Ctrl-C in whoever has the turn: this token may be half taken, the others' are not touched
                self._fail(chunk.sequence.request, LinnetError("the request was interrupted while its token was chosen; submit it again"))
                raise
            finally:
                self._accepting = False

    def _end_late(self) -> None:
        """Fails requests whose time is over."""
        now = time.perf_counter()
        for deadline, request in self._timed:
            if deadline <= now:
                seconds = request.params.timeout
                self._fail(request, DeadlineError(f"the request was not done within its timeout of {seconds:g} seconds; allow it more"))
        with self._lock:
            self._timed = [entry for entry in self._timed if not entry[1].done]

    def _accept(self, chunk: Chunk, rows: NDArray[np.float32]) -> None:
        """Takes a sequence's share of a step: hands prompt logits out, and chooses the next token where it is due."""
        sequence, request = chunk.sequence, chunk.sequence.request
        owed = sequence.owed(chunk.count)
        if owed:
            assert request.prompt_logits is not None
            request.prompt_logits(sequence.scored, rows[len(rows) - owed :])
            sequence.scored += owed
        self.scheduler.advance(sequence, chunk.count)
        if sequence.lacking:
            return
        if sequence.index == 0 and not sequence.generated and len(request.sequences) > 1:
            self.scheduler.fork(sequence)
        if sequence.limit == 0:
            self._emit(sequence, Output(0, None, None, "length", time.perf_counter()))
            return
        logits, params = rows[-1], request.params
        token = sequence.sampler.next_token(logits, sequence.tokens, sequence.generated)
        logprob = None if params.logprobs is None else token_logprob(logits, token, params.logprobs)
        sequence.tokens.append(token)
        if not request.cache:
            sequence.computed = 0
        sequence.slide(self.context)
        reason = self._finish_reason(sequence, token)
        self._emit(sequence, Output(sequence.index, token, logprob, reason, time.perf_counter()))

    def _finish_reason(self, sequence: Sequence, token: int) -> FinishReason | None:
        request = sequence.request
        if token in request.ends:
            return "stop"
        if request.stop_rule is not None and request.stop_rule(sequence.index, token):
            return "stop"
        return "length" if sequence.generated == sequence.limit else None

    def _emit(self, sequence: Sequence, output: Output) -> None:
        request = sequence.request
        if output.finish_reason is not None:
            self.scheduler.remove(sequence)
            request.unfinished -= 1
        request.outputs.append(output)
        if request.unfinished == 0:
            request.done = True

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.done:
            request.error = error
            self._drop(request)

    def _drop(self, request: Request) -> None:
        if not request.done:
            for sequence in request.sequences:
                self.scheduler.remove(sequence)
            self.scheduler.end_trunk(request)
            request.done = True
            logger.debug("request dropped: %s", request.error or "cancelled")


_LOST = 1.0
"""Seconds after which a waiter looks again: Ctrl-C in whoever gives the turn up can lose the call that wakes it."""
