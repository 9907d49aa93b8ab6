"""Runs many prompts through the engine at once, to generate answers or to score continuations, and keeps its batches full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.errors import InvalidRequestError, LinnetError, QueueFullError
from linnet.handle import Handle
from linnet.llm import LLM
from linnet.outputs import Completion
from linnet.prompts import Prompt

R = TypeVar("R")

LEAST, MOST = 2, 6
"""Requests on their way for each place in the batch: below the least, as many are made as may be. One after the other they cost less than
between steps, where making one costs the core's threads their sleep."""


class Job(Protocol):
    """One request to the engine."""

    def start(self, llm: LLM) -> Handle | Request:
        """Submits the job, and gives an object that says whether it is done. Raises what is wrong with it, and QueueFullError."""

    def advance(self) -> None:
        """Waits for a step of the engine, which advances all started jobs."""

    def cancel(self) -> None: ...


class Generate:
    """Generates an answer: `completion`, once it is done."""

    def __init__(self, prompt: Prompt, params: SamplingParams) -> None:
        self.prompt, self.params = prompt, params

    def start(self, llm: LLM) -> Handle:
        self._handle = llm.submit(self.prompt, self.params)
        return self._handle

    def advance(self) -> None:
        self._handle.advance()

    def cancel(self) -> None:
        self._handle.cancel()

    @property
    def completion(self) -> Completion:
        return self._handle.result()[0]


class Score:
    """Scores tokens[start:], given the tokens before them. There must be at least one of each, else InvalidRequestError.

    logprobs: natural logarithms, float64, one per token, once it is done; exponentials are float32, their sums float64.
    greedy: whether each token is the likeliest (among equals, the one with the smallest id).
    """

    def __init__(self, tokens: Sequence[int], start: int) -> None:
        if not 1 <= start < len(tokens):
            raise InvalidRequestError(f"{len(tokens)} tokens cannot be scored from number {start} on: one must stand before")
        self.tokens, self.start_at = list(tokens), start
        self.logprobs: list[float] = []
        self.greedy = True

    def start(self, llm: LLM) -> Request:
        if llm.spec.bidirectional_prompt:
            raise InvalidRequestError(f"{llm.spec.family} reads its prompts both ways, so that their likelihood says nothing")
        self._engine = llm.engine
        # The last token is only scored, never read, so that it takes no place in the context.
        self._request = Request(self.tokens[:-1], SCORING, 0, prompt_logits=self._take, logits_from=self.start_at - 1)
        self._engine.submit(self._request)
        return self._request

    def advance(self) -> None:
        self._engine.advance(self._request)

    def cancel(self) -> None:
        self._engine.cancel(self._request)

    @property
    def logprob(self) -> float:
        """The log-probability of all scored tokens together. Raises what made the request fail."""
        if self._request.error is not None:
            raise self._request.error
        return float(np.sum(self.logprobs))

    def _take(self, position: int, logits: NDArray[np.float32]) -> None:
        """Takes the logits [rows, vocab] after the tokens from `position` on; a few rows at a time, which fit in a core's cache."""
        targets = np.array(self.tokens[position + 1 : position + 1 + len(logits)])
        rows = max(1, _BLOCK // logits.shape[1])
        for start in range(0, len(logits), rows):
            part, target = logits[start : start + rows], targets[start : start + rows]
            index = np.arange(len(part))
            best = part.argmax(axis=1)
            largest = part[index, best]
            if not np.isfinite(largest).all():
                raise LinnetError("the model gave logits that are not finite; its weights hold infinities or NaN, or overflow their type")
            weights = np.exp(part - largest[:, None])
            logprobs = part[index, target].astype(np.float64) - largest - np.log(weights.sum(axis=1, dtype=np.float64))
            self.logprobs += logprobs.tolist()
            self.greedy = self.greedy and bool((best == target).all())


SCORING = SamplingParams(max_tokens=0)
"""The params of a request whose prompt is scored."""

_BLOCK = 2**16
"""How many logits are worked on at a time."""


@dataclass(frozen=True)
class Item(Generic[R]):
    """Jobs that belong together, and the result that is made of them when all are done. If their prompts begin alike, the first job runs
    before the others, so that these find its keys and values in the prefix cache."""

    jobs: Sequence[Job]
    finish: Callable[[], R]


class _Entry:
    """An item under way: the jobs that wait for the first one, and how many are not done."""

    def __init__(self, index: int, item: Item[Any]) -> None:
        self.index, self.item = index, item
        self.followers = list(item.jobs[1:])
        self.unfinished = len(item.jobs)


def run(llm: LLM, items: Iterable[Item[R]]) -> Generator[tuple[int, R], None, None]:
    """The results of the items, each with its item's index, in the order in which they are done.

    Items are taken when there is room for them, so that not all of them need be in memory. Raises what a job raises, with its index; the
    others are then cancelled, as they are when the iterator is closed.
    """
    source = _entries(items)
    least, most = LEAST * llm.engine.max_batch, MOST * llm.engine.max_batch
    waiting: deque[tuple[_Entry, Job]] = deque()
    running: list[tuple[Handle | Request, Job, _Entry]] = []
    try:
        while True:
            room = most - len(running) if len(running) < least else 0
            for _ in range(room):
                if not waiting:
                    entry = next(source, None)
                    if entry is None:
                        break
                    if not entry.unfinished:
                        yield entry.index, _finish(entry)
                        continue
                    waiting.append((entry, entry.item.jobs[0]))
                entry, job = waiting[0]
                state = _start(llm, entry, job, alone=not running)
                if state is None:
                    break
                del waiting[0]
                running.append((state, job, entry))
            if not running:
                return
            running[0][1].advance()
            # Runs once per step, while the core's threads wait: it has to be short.
            done = [entry for state, _, entry in running if state.done]
            if done:
                running = [entry for entry in running if not entry[0].done]
            for entry in done:
                waiting.extendleft((entry, job) for job in reversed(entry.followers))
                entry.followers = []
                entry.unfinished -= 1
                if not entry.unfinished:
                    yield entry.index, _finish(entry)
    finally:
        for _, job, _ in running:
            job.cancel()


def check(llm: LLM, tokens: Sequence[int], params: SamplingParams, place: str) -> None:
    """Raises the error of a request for these tokens (too long, for example), with its place, before any others have run."""
    try:
        llm.engine.check(Request(list(tokens), params, 0))
    except LinnetError as error:
        raise type(error)(f"{place}: {error}") from None


def _entries(items: Iterable[Item[Any]]) -> Iterator[_Entry]:
    index = 0
    try:
        for item in items:
            yield _Entry(index, item)
            index += 1
    except LinnetError as error:
        raise _placed(error, index) from None


def _start(llm: LLM, entry: _Entry, job: Job, alone: bool) -> Handle | Request | None:
    """Starts the job; None if the queue is full, which is an error only if none of the requests in it is ours."""
    try:
        return job.start(llm)
    except QueueFullError:
        if alone:
            raise
        return None
    except LinnetError as error:
        raise _placed(error, entry.index) from None


def _finish(entry: _Entry) -> Any:
    try:
        return entry.item.finish()
    except LinnetError as error:
        raise _placed(error, entry.index) from None


def _placed(error: LinnetError, index: int) -> LinnetError:
    return type(error)(f"item {index}: {error}")
