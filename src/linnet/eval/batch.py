"""Many prompts through the engine at once: answers to generate and continuations to score, as fast as its batches take them."""

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
        """Submits it, and gives what says whether it is done. Raises what is wrong with it, and QueueFullError."""

    def advance(self) -> None:
        """Waits for a step of the engine, which serves all that was started."""

    def cancel(self) -> None: ...


class Generate:
    """An answer: `completion`, once it is done."""

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
    """The likelihood of tokens[start:], given those before them. There is at least one of each, else InvalidRequestError.

    logprobs: natural logarithms, float64, one a token, once it is done; each sum of exponentials is of float32, added in float64.
    greedy: whether each token is the likeliest (of equal ones the smallest id).
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
        # The last token is only asked about, so that it takes no place in the context.
        self._request = Request(self.tokens[:-1], SCORING, 0, prompt_logits=self._take, logits_from=self.start_at - 1)
        self._engine.submit(self._request)
        return self._request

    def advance(self) -> None:
        self._engine.advance(self._request)

    def cancel(self) -> None:
        self._engine.cancel(self._request)

    @property
    def logprob(self) -> float:
        """Of all scored tokens together. Raises what made the request fail."""
        if self._request.error is not None:
            raise self._request.error
        return float(np.sum(self.logprobs))

    def _take(self, position: int, logits: NDArray[np.float32]) -> None:
        """Logits [rows, vocab] after the tokens from `position` on, a few rows at a time: as many as stay in a core's cache."""
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
"""Of a request whose prompt is scored."""

_BLOCK = 2**16
"""Logits that are worked on at once."""


@dataclass(frozen=True)
class Item(Generic[R]):
    """What belongs together: its jobs, and what is made of them when all are done. The first job runs ahead of the others where their
    prompts begin alike, so that they find its keys and values in the prefix cache."""

    jobs: Sequence[Job]
    finish: Callable[[], R]


class _Entry:
    """An item on its way: which jobs are yet to follow the first, and how many are not done."""

    def __init__(self, index: int, item: Item[Any]) -> None:
        self.index, self.item = index, item
        self.followers = list(item.jobs[1:])
        self.unfinished = len(item.jobs)


def run(llm: LLM, items: Iterable[Item[R]]) -> Generator[tuple[int, R], None, None]:
    """What each item gives, with its place among the items, in the order in which they are done.

    Items are taken as there is room for them: neither they nor their requests need all be in memory. Raises what a job raises, and
    its place; the others are given up, as they are when the iterator is closed.
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
            # Once a step, in which the core's threads wait: as little as can be.
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
    """Raises what a request for these tokens would meet (too long, say), and its place: before others have run."""
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
    """Starts the job; None where the queue is full, which is an error only where none of ours fills it."""
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
