"""`Task`: what an evaluation runs and measures. And how one is run to its end."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, ClassVar, TypeAlias

from linnet.eval.batch import Item, run
from linnet.eval.sample_log import SampleLog
from linnet.eval.text_metrics import Measured
from linnet.llm import LLM

Sample: TypeAlias = dict[str, Any]
"""What an item gave, as JSON holds it."""


class Task(ABC):
    """One evaluation: `len` of it items, to be run in any order, and the figures of what they gave.

    settings: all that decides what an item gives, besides the model and the data, as JSON. digest: of the data.
    """

    kind: ClassVar[str]
    settings: dict[str, Any]
    digest: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def item(self, index: int) -> Item[Sample]:
        """The requests of an item, made anew at each call."""

    @abstractmethod
    def measure(self, samples: Sequence[Sample]) -> Measured:
        """The figures of all samples, in the order of their items, and of each row."""

    @abstractmethod
    def shown(self, row: int, samples: Sequence[Sample]) -> dict[str, str]:
        """A row and what the model made of it, for people to read: texts by name."""


def complete(llm: LLM, task: Task, log: SampleLog | None = None, progress: Callable[[int, int], None] | None = None) -> list[Sample]:
    """The samples of all items, in order; those that the log has already are not run again.

    progress: called with how many items are done and how many there are, at first and whenever one is.
    """
    samples: dict[int, Sample] = {} if log is None else dict(log.samples)
    due = [index for index in range(len(task)) if index not in samples]
    if progress is not None:
        progress(len(samples), len(task))
    with closing(run(llm, (task.item(index) for index in due))) as results:
        for place, sample in results:
            samples[due[place]] = sample
            if log is not None:
                log.add(due[place], sample)
            if progress is not None:
                progress(len(samples), len(task))
    return [samples[index] for index in range(len(task))]


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
