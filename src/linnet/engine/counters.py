"""What an engine has done since it was opened, as counters and histograms. Knows no metrics system."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["finished", "cancelled", "timed_out", "failed"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
SEQUENCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Histogram:
    """counts[i]: how many values are at most bounds[i] and larger than the bound before it; the last entry counts all larger values.
    total: the sum of all values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


@dataclass(frozen=True)
class Counters:
    """An engine's counters at one moment. All but the last five only grow.

    submitted: requests that were accepted; each is counted in `outcomes` once it is done. refused: requests that found the queue full.
    finish_reasons: of all samples that ended. prompt_tokens: of requests that have begun to run; cached_tokens: how many of these were
    found in the prefix cache. generated_tokens: of all samples; each is also counted in `first_token_seconds` (since submission) or
    `inter_token_seconds` (since the token before it). queue_seconds: from submission to the first step. step_seconds: of whole steps;
    forward_seconds: how much of their sum the model took. batch_sizes: sequences per step. preemptions: how often a sequence had to give
    its pages back. drafted_tokens, accepted_tokens: guesses of speculation, and how many were right. running, waiting: samples at this
    moment. pages: of the whole KV cache; pages_used: those that sequences hold; pages_cached: those that nobody holds and that are kept
    for prompts that begin alike.
    """

    submitted: int
    refused: int
    outcomes: Mapping[Outcome, int]
    finish_reasons: Mapping[str, int]
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: Histogram
    first_token_seconds: Histogram
    inter_token_seconds: Histogram
    request_seconds: Histogram
    step_seconds: Histogram
    forward_seconds: float
    batch_sizes: Histogram
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int
    running: int
    waiting: int
    pages: int
    pages_used: int
    pages_cached: int


class Tally:
    """The counters as they grow, with a method for each kind of event. Safe to call from any thread, and reentrant: the garbage collector
    can end a request anywhere, even inside one of these methods."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.submitted = self.refused = 0
        self.outcomes: dict[Outcome, int] = {"finished": 0, "cancelled": 0, "timed_out": 0, "failed": 0}
        self.finish_reasons = {"stop": 0, "length": 0}
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.queue_seconds, self.first_token_seconds, self.inter_token_seconds = _Values(SECONDS), _Values(SECONDS), _Values(SECONDS)
        self.request_seconds, self.step_seconds, self.forward_seconds = _Values(SECONDS), _Values(SECONDS), 0.0
        self.batch_sizes = _Values(SEQUENCES)

    def submit(self) -> None:
        with self._lock:
            self.submitted += 1

    def refuse(self) -> None:
        with self._lock:
            self.refused += 1

    def start(self, waited: float, prompt: int, cached: int) -> None:
        """A request runs for the first time, after it waited so many seconds. prompt, cached: its tokens, and how many were cached."""
        with self._lock:
            self.queue_seconds.add(waited)
            self.prompt_tokens += prompt
            self.cached_tokens += cached

    def generate(self, seconds: float, first: bool) -> None:
        """A sample has a new token, so many seconds after the one before it, or after submission if it is the first."""
        with self._lock:
            self.generated_tokens += 1
            (self.first_token_seconds if first else self.inter_token_seconds).add(seconds)

    def draft(self, proposed: int, accepted: int) -> None:
        with self._lock:
            self.drafted_tokens += proposed
            self.accepted_tokens += accepted

    def finish(self, reason: str) -> None:
        """A sample has ended."""
        with self._lock:
            self.finish_reasons[reason] += 1

    def end(self, outcome: Outcome, seconds: float) -> None:
        """A request is done, so many seconds after it was submitted."""
        with self._lock:
            self.outcomes[outcome] += 1
            self.request_seconds.add(seconds)

    def run(self, sequences: int, seconds: float, forward: float) -> None:
        """A step with so many sequences took so many seconds. forward: how many of them the model took."""
        with self._lock:
            self.batch_sizes.add(sequences)
            self.step_seconds.add(seconds)
            self.forward_seconds += forward

    def counters(self, **now: int) -> Counters:
        """A snapshot. now: the fields that describe this moment, which are not counted here."""
        with self._lock:
            grown: dict[str, Any] = {name: _frozen(value) for name, value in vars(self).items() if not name.startswith("_")}
        return Counters(**{**grown, **now})


def _frozen(value: Any) -> Any:
    if isinstance(value, _Values):
        return value.frozen()
    return MappingProxyType(dict(value)) if isinstance(value, dict) else value


class _Values:
    """A histogram that grows."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def frozen(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)
