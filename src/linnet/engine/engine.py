"""The engine: takes requests and gives their tokens. Whoever waits for tokens drives; for coroutines a thread does (`driver.py`).

Of all callers that wait, one at a time has the turn (`turns.py`): it runs a step for every request there is (`stepping.py`) and
wakes the others, which then find their tokens, or take the next turn. So interleaved streams and threads batch together, and none
can hold another up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linnet.arch.spec import ModelSpec
from linnet.engine.admission import Admission
from linnet.engine.beams import BeamSearch
from linnet.engine.check import check_request, most_tokens
from linnet.engine.counters import Counters, Tally
from linnet.engine.draft_model import DraftModel
from linnet.engine.driver import Driver
from linnet.engine.page_plan import layer_groups
from linnet.engine.pages import PagePool, most_pages
from linnet.engine.prefix_cache import PrefixCache
from linnet.engine.request import Request, Sequence
from linnet.engine.runner import Runner
from linnet.engine.sampling import Sampler
from linnet.engine.scheduler import Scheduler
from linnet.engine.speculative import Speculator
from linnet.engine.stepping import Stepping
from linnet.engine.turns import Turns
from linnet.errors import ClosedError, LinnetError, OutOfMemoryError
from linnet.forward import forward
from linnet.ops.base import PAGE_SIZE, Batch, Ops
from linnet.weights import Weights

logger = logging.getLogger("linnet.engine")

T = TypeVar("T")

PRIORITY_PLACES = 100
"""What a step of priority is worth: a request is overtaken by no more than so many later ones, so that none waits for ever."""

PROMPT_LOGIT_BYTES = 64 * 2**20
"""Most bytes of prompt logits made in one step: 32,000 positions of 152,000 entries would take 20 GB at once."""


class Engine(Runner):
    """Runs requests over one model, in continuous batches over so many KV `pages` of each group of its layers (`layer_groups`).

    The same request gives the same tokens alone or among others, in any prefill chunks, with its cache or without.
    slides: a request may go on past the context; the model then sees the last tokens that the context holds, their positions
    counted from 0, computed anew for each token. draft: a model that guesses ahead; the engine closes it with itself. Safe to use from
    several threads.
    """

    def __init__(
        self,
        ops: Ops,
        spec: ModelSpec,
        weights: Weights,
        *,
        context: int,
        pages: list[int],
        kv_dtype: str,
        max_batch: int,
        prefill_chunk: int,
        slides: bool = False,
        prefix_cache: bool = True,
        max_queue: int | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        groups = layer_groups(spec, None if draft is None else draft.spec)
        ops.allocate_cache(spec, pages, kv_dtype, groups.of_layer)
        self.ops = ops
        self.spec = spec
        run, run_hidden = (ops.stepper(spec, partial(forward, ops, spec, weights, wanted)) for wanted in ("logits", "hidden"))
        logit_rows = max(1, PROMPT_LOGIT_BYTES // (4 * spec.vocab_size))
        self.context = context
        self.max_batch = max_batch
        self.most_rows = min(prefill_chunk, logit_rows)
        self.slides = slides
        self.pool = PagePool(pages, groups.windows)
        prefixes = PrefixCache(self.pool, spec) if prefix_cache and PrefixCache.suits(spec) else None
        # Rows of a bidirectional prompt see those after them, so that all go into one step.
        whole = spec.bidirectional_prompt
        self.scheduler = Scheduler(self.pool, context, max_batch, prefill_chunk, logit_rows, self._copy_page, prefixes, whole)
        self.speculator = Speculator(self.scheduler, draft, ops.keeps_bits)
        if draft is not None:
            draft.join(self.pool.groups[0], spec.vocab_size, prefill_chunk)
        self._tally = Tally()
        self._admission = Admission(max_batch, max_queue, self._tally)
        self._stepping = Stepping(self.scheduler, self.speculator, self._tally, run, run_hidden, context)
        self._turns = Turns()
        self._driver = Driver(self._turns.lock, self._drive)
        self._submitted = 0

    def check(self, request: Request) -> None:
        """Raises InvalidRequestError, ContextLengthError or OutOfMemoryError where the request can never be honoured."""
        self._admission.check_open()
        drafts = self.speculator.draft is not None
        check_request(request, self.spec.vocab_size, self.context, self.slides, drafts, self.max_batch, self.pool.has_states)
        beams = self._width(request)
        for group, need in zip(self.pool.groups, self._need(request), strict=True):
            needed, there = beams * need, group.count - group.promised
            if needed > there:
                tokens = min(needed * PAGE_SIZE, beams * (len(request.prompt) + most_tokens(request, self.context, self.slides)))
                lower = "max_tokens" if beams == 1 else "max_tokens or num_beams"
                raise OutOfMemoryError(
                    f"the request needs KV cache for {tokens} tokens and the cache holds {there * PAGE_SIZE}; "
                    f"lower {lower} or raise kv_memory"
                )

    def submit(self, request: Request) -> None:
        """Checks the request and puts it last in the queue; `outputs` then gives its tokens."""
        self.check(request)
        request.submitted_at = time.perf_counter()
        request.sequences = self._samples(request)
        request.unfinished = len(request.sequences)
        if self._width(request) > 1:
            request.beams = BeamSearch(request)
        with self._turns.lock:
            self.check(request)  # again: a session may have taken room meanwhile
            # Of requests that have begun, each sample counts: it has a place in the batch.
            self._admission.admit(len(self._stepping.arrived) + len(self.scheduler.waiting) + len(self.scheduler.running))
            self._stepping.unfinished.add(request)
            self._tally.submit()
            self._submitted += 1
            place = self._submitted + PRIORITY_PLACES * request.params.priority
            for sequence in request.sequences:
                sequence.order = (place, self._submitted, sequence.index)
            if request.params.timeout is not None:
                self._stepping.timed.append((request.submitted_at + request.params.timeout, request))
            self._stepping.arrived.append(request)
        samples, limit = len(request.sequences), request.sequences[0].limit
        logger.debug("request: %d prompt tokens, %d samples of up to %d tokens", len(request.prompt), samples, limit)

    def advance(self, request: Request, until: float = math.inf) -> None:
        """Waits until the request has outputs or is done, until this thread has run one step itself, or, while another has the turn,
        until time.perf_counter() is `until`."""
        self._drive(lambda: bool(request.outputs) or request.done, until)

    async def wait(self, request: Request) -> None:
        """Waits until the request has outputs or is done, without holding the event loop up: from now on and to the end of the
        request, a thread of the engine's own runs steps, for all requests that there are."""
        self._admission.check_process()
        await self._driver.wait(request)

    def counters(self) -> Counters:
        """What was done so far, and what there is now."""
        scheduler, pool = self.scheduler, self.pool
        return self._tally.counters(
            preemptions=scheduler.preemptions,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._stepping.arrived),
            pages=pool.count,
            pages_used=pool.count - pool.free_count,
            pages_cached=pool.idle_count,
        )

    def drain(self, until: float = math.inf) -> bool:
        """Refuses new requests from now on, and runs those that there are; whether all were done by the time `until`."""
        self._admission.check_open()
        self._refuse_reentry()
        self._admission.draining = True
        while self._stepping.unfinished and time.perf_counter() < until:
            self._drive(lambda: not self._stepping.unfinished, until)
        return not self._stepping.unfinished

    def cancel(self, request: Request) -> None:
        """Ends a request, if it still runs, and frees its pages. May be called at any time and from anywhere, a
        garbage collection in the middle of a step included."""
        if not request.done:
            self._turns.leave(partial(self._stepping.drop, request))
            self._driver.wake()

    def close(self) -> None:
        """Fails what still runs with ClosedError and gives the cache and the weights back, once the step that runs is over. Closing twice
        is no error: the second waits for that step too, and finishes what an interrupt kept the first from doing."""
        with self._turns.lock:
            self._refuse_reentry()
            self._admission.closed = True
            self._turns.close()
            for request in tuple(self._stepping.unfinished):
                self._stepping.fail(request, ClosedError("the LLM was closed while this request ran"))
            self.ops.free_cache()
            if self.speculator.draft is not None:
                self.speculator.draft.close()
            self._stepping.run = self._stepping.run_hidden = None
        self._end_turn()

    # ---- for sessions
    def in_turn(self, task: Callable[[], T]) -> T:
        """What `task` gives, run between two steps."""
        self._admission.check_open()
        self._refuse_reentry()
        try:
            if not self._turns.claim():
                raise ClosedError("the LLM was closed")
            return task()
        finally:
            if self._turns.mine:
                self._end_turn()

    def leave(self, errand: Callable[[], None]) -> None:
        """Has `errand` run between two steps, now or soon; may be called from anywhere."""
        self._turns.leave(errand)

    def promise(self, pages: list[int]) -> None:
        """Sets pages of each group aside, in a turn of this thread. Raises OutOfMemoryError where a request that runs or waits needs
        them."""
        with self._turns.lock:
            unfinished = self._stepping.unfinished
            for number, (group, count) in enumerate(zip(self.pool.groups, pages, strict=True)):
                needed = max((self._width(request) * request.sequences[0].need[number] for request in unfinished), default=0)
                left = group.count - group.promised - needed
                if count > left:
                    raise OutOfMemoryError(
                        f"the session needs KV cache for {count * PAGE_SIZE} tokens and {max(0, left) * PAGE_SIZE} are not needed by "
                        "requests and other sessions; give it less capacity, close another, or raise kv_memory"
                    )
            self.scheduler.promise(pages)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Runs a batch of somebody else's, in a turn of this thread."""
        assert self._stepping.run is not None
        return self._stepping.run(batch)

    def _width(self, request: Request) -> int:
        """How many of its sequences have to be held at once: all beams, or any one sample."""
        return request.params.num_beams if most_tokens(request, self.context, self.slides) else 1

    def _need(self, request: Request) -> list[int]:
        """Most pages of each group that each of its samples, or beams, can come to hold."""
        total = min(len(request.prompt) + most_tokens(request, self.context, self.slides), self.context)
        return [most_pages(total, group.window, self.scheduler.prefill_chunk) for group in self.pool.groups]

    def _copy_page(self, source: int, target: int, group: int) -> None:
        self.ops.copy_page(source, target, group)
        if self.speculator.draft is not None and group == 0:
            self.speculator.draft.ops.copy_page(source, target, 0)

    def _samples(self, request: Request) -> list[Sequence]:
        limit = most_tokens(request, self.context, self.slides)
        need = self._need(request)
        sequences = []
        for index in range(max(request.params.n, request.params.num_beams) if limit else 1):  # only the first sample scores the prompt
            constraint = None if request.constraint is None else request.constraint.fork()
            sampler = Sampler(self.ops, request.params, request.seed, index, request.prompt, request.ends, constraint)
            sequence = Sequence(request, index, list(request.prompt), limit, need, sampler, scored=request.logits_from)
            sequence.slide(self.context)
            sequences.append(sequence)
        return sequences

    def _drive(self, enough: Callable[[], bool], until: float = math.inf) -> None:
        """Runs a step as soon as it is this thread's turn, unless there is `enough()` before, or it is `until`."""
        self._admission.check_process()
        self._refuse_reentry()
        try:
            if self._turns.take(enough, until):
                self._stepping.step()
        finally:
            if self._turns.mine:
                self._end_turn()

    def _end_turn(self) -> None:
        self._stepping.accepting = False
        self._turns.give_up()
        self._driver.wake()

    def _refuse_reentry(self) -> None:
        """A caller's callable may not come back. The turn alone does not tell: Ctrl-C while a thread gives its turn up leaves it there."""
        if self._stepping.accepting and self._turns.mine:
            raise LinnetError("a logits_processor, choose or stop callable may not use the LLM that called it: it would wait for itself")
