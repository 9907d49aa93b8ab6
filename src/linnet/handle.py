"""`Handle`: the answer to a request that was submitted, to be read later."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from linnet.answer import Answer
from linnet.engine.runner import Runner
from linnet.engine.sampling import TokenLogprob
from linnet.errors import CancelledError, DeadlineError
from linnet.outputs import Chunk, Completion


class Handle:
    """The answer to a submitted prompt: iterate over its chunks, or take the `result`. Both may be done repeatedly, and from any thread.
    In a coroutine, iterate with `async for`, or await `aresult`; if the waiting task is cancelled, so is the request.

    The engine has no thread of its own for synchronous callers: a thread that waits, on any handle or in any other call of the LLM, runs
    the steps of all requests. So this request makes progress while another is waited for, and nothing runs while nobody waits. A request
    that a coroutine has waited for runs to its end in a thread of the engine. When the last reference to a handle is gone, its request
    is cancelled.
    """

    def __init__(self, engine: Runner, answer: Answer) -> None:
        self._engine, self._answer, self._request = engine, answer, answer.request
        self._chunks: list[Chunk] = []
        self._cancelled = False
        self._lock = threading.Lock()
        self._abandoned = weakref.finalize(self, engine.cancel, answer.request)
        self._abandoned.atexit = False

    @property
    def done(self) -> bool:
        """Whether the answer is complete, has failed or was cancelled."""
        return self._request.done

    @property
    def prompt_token_ids(self) -> list[int]:
        """The token ids of the prompt, as the model gets them."""
        return self._request.prompt

    @property
    def continues(self) -> bool:
        """Whether the answer continues the prompt's text: see `Completion.text`."""
        return self._answer.continues

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """As in `Completion`; complete once the first chunk has come."""
        return self._request.prompt_logprobs

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks from the first on, as they come. Raises what made the request fail, after those that came before."""
        count = 0
        while self._more(count, math.inf):
            yield self._chunks[count]
            count += 1

    def result(self, timeout: float | None = None) -> list[Completion]:
        """The whole answer, with a Completion for every sample, in order. Raises what made the request fail, CancelledError if it was
        cancelled, and DeadlineError if it is not done after `timeout` seconds (or the end of the step that runs then); the request itself
        goes on after that."""
        until = math.inf if timeout is None else time.perf_counter() + timeout
        count = 0
        while self._more(count, until):
            count = len(self._chunks)
        return self._completions()

    def advance(self) -> None:
        """Waits until there is more of the answer, or this thread has run one step for all requests. Returns immediately if the request is
        done."""
        self._take()
        if not self._request.done:
            self._engine.advance(self._request)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """As `__iter__`, without blocking the event loop."""
        count = 0
        while await self._more_later(count, math.inf):
            yield self._chunks[count]
            count += 1

    async def aresult(self, timeout: float | None = None) -> list[Completion]:
        """As `result`, without blocking the event loop."""
        until = math.inf if timeout is None else time.perf_counter() + timeout
        count = 0
        while await self._more_later(count, until):
            count = len(self._chunks)
        return self._completions()

    def cancel(self) -> None:
        """Cancels the request and frees its KV pages. Does nothing if it is done already."""
        with self._lock:
            self._cancelled = self._cancelled or not self._request.done
        self._engine.cancel(self._request)

    def _more(self, count: int, until: float) -> bool:
        """Whether there are more than `count` chunks; waits until that is known."""
        while (known := self._known(count, until)) is None:
            self._engine.advance(self._request, until)
        return known

    async def _more_later(self, count: int, until: float) -> bool:
        import asyncio

        try:
            while (known := self._known(count, until)) is None:
                left = None if until == math.inf else until - time.perf_counter()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._engine.wait(self._request), left)
            return known
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _known(self, count: int, until: float) -> bool | None:
        """Whether there are more than `count` chunks; None if that is not known yet."""
        done = self._request.done
        self._take()
        if len(self._chunks) > count:
            return True
        if self._cancelled:
            raise CancelledError("the request was cancelled")
        if done:
            self._abandoned.detach()  # a cycle otherwise: it holds the request, whose error's traceback holds this handle
            if self._request.error is not None:
                raise self._request.error
            return False
        if time.perf_counter() >= until:
            raise DeadlineError("the answer is not done within the time that result() was to wait; it goes on")
        return None

    def _take(self) -> None:
        """Turns the outputs that the engine has ready into chunks."""
        with self._lock:
            outputs = self._request.outputs
            self._chunks += self._answer.chunks(outputs.popleft() for _ in range(len(outputs)))

    def _completions(self) -> list[Completion]:
        completions = [chunk.completion for chunk in self._chunks if chunk.completion]
        return sorted(completions, key=lambda completion: completion.index)
