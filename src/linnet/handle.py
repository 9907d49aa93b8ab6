"""`Handle`: an answer that was asked for and not waited for."""

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
    """The answer to a submitted prompt: iterate for its chunks, or take the `result`; both may be done repeatedly, and from any thread.
    In a coroutine, iterate with `async for`, or await `aresult`; a task that is cancelled while it waits there cancels the request.

    Whoever waits, on any handle or in any other call of the LLM, runs the steps of all requests. So this one goes on while others are
    waited for, and when nobody waits for anything, nothing runs. What a coroutine has once waited for runs to its end, in a thread of
    the engine's own. A handle that nobody has any longer cancels its request.
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
        """What the model got."""
        return self._request.prompt

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the prompt's text: see `Completion.text`."""
        return self._answer.continues

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """As in `Completion`; whole once the first chunk has come."""
        return self._request.prompt_logprobs

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks from the first on, as they come. Raises what made the request fail, after those that came before."""
        count = 0
        while self._more(count, math.inf):
            yield self._chunks[count]
            count += 1

    def result(self, timeout: float | None = None) -> list[Completion]:
        """The whole answer, a Completion for every sample, in order. Raises what made the request fail, CancelledError where it was
        cancelled, and DeadlineError, upon which it goes on, where it is not done within `timeout` seconds, but for the end of a step."""
        until = math.inf if timeout is None else time.perf_counter() + timeout
        count = 0
        while self._more(count, until):
            count = len(self._chunks)
        return self._completions()

    def advance(self) -> None:
        """Waits until there is more of the answer, or this thread has run one step for all requests; of one that is done, for nothing."""
        self._take()
        if not self._request.done:
            self._engine.advance(self._request)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """As `__iter__`, and the event loop is not held up."""
        count = 0
        while await self._more_later(count, math.inf):
            yield self._chunks[count]
            count += 1

    async def aresult(self, timeout: float | None = None) -> list[Completion]:
        """As `result`, and the event loop is not held up."""
        until = math.inf if timeout is None else time.perf_counter() + timeout
        count = 0
        while await self._more_later(count, until):
            count = len(self._chunks)
        return self._completions()

    def cancel(self) -> None:
        """Ends the request and frees what it held. Of one that is done already, or was cancelled, nothing changes."""
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
        """Whether there are more than `count` chunks; None where that is yet to be seen."""
        done = self._request.done
        self._take()
        if len(self._chunks) > count:
            return True
        if self._cancelled:
            raise CancelledError("the request was cancelled")
        if done:
            self._abandoned.detach()  # it holds the request, whose error holds this handle once its traceback passes through here
            if self._request.error is not None:
                raise self._request.error
            return False
        if time.perf_counter() >= until:
            raise DeadlineError("the answer is not done within the time that result() was to wait; it goes on")
        return None

    def _take(self) -> None:
        """Makes chunks of what the engine has put out."""
        with self._lock:
            outputs = self._request.outputs
            self._chunks += self._answer.chunks(outputs.popleft() for _ in range(len(outputs)))

    def _completions(self) -> list[Completion]:
        completions = [chunk.completion for chunk in self._chunks if chunk.completion]
        return sorted(completions, key=lambda completion: completion.index)
