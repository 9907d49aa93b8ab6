"""`evaluate`: runs a model over data and measures it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linnet.engine.params import SamplingParams
from linnet.errors import ChatTemplateError, InvalidRequestError
from linnet.eval.generation import DEFAULTS
from linnet.eval.plan import Plan, plan
from linnet.eval.sample_log import SampleLog
from linnet.eval.task import Sample, Task, complete, digest
from linnet.eval.text_metrics import Measured, Metric
from linnet.llm import LLM
from linnet.text.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    measured: the figures of the whole and of each row; `metrics` and `failed` are parts of it. samples: the model's output for each item
    (a row, a window of a text, or an example). seconds, ran: the time of this run, and how many items it ran; the others were in the
    file of samples already.
    """

    model: str
    data: str
    task: Task
    measured: Measured
    samples: list[Sample]
    ran: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float | str]:
        """The figures by name."""
        return self.measured.figures

    @property
    def failed(self) -> dict[str, str]:
        """The metrics that raised an error, each with the error."""
        return self.measured.failed

    def worst(self, count: int) -> list[int]:
        """The rows with the worst first figure; among equals, those with the worst next one."""
        each = self.measured.each
        rows = range(len(next(iter(each.values()), [])))
        return sorted(rows, key=lambda row: [values[row] for values in each.values()])[:count]

    def record(self) -> dict[str, Any]:
        """The result as JSON values, without the samples; a figure that is not finite is null."""
        finite = {name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in self.metrics.items()}
        return {
            "model": self.model,
            "data": self.data,
            "kind": self.task.kind,
            "metrics": finite,
            "failed": self.failed,
            "settings": self.task.settings,
            "items": len(self.samples),
            "ran": self.ran,
            "seconds": self.seconds,
        }


def evaluate(
    model: LLM | str | Path,
    data: str | Path | Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[str | Metric] | None = None,
    params: SamplingParams | None = None,
    chat: bool | None = None,
    system: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    delimiter: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    samples: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs a model over data and measures it.

    data: rows {"prompt", "reference"} (answers are generated), {"prompt", "choices", "answer"} (the likeliest choice counts) or
    {"text"} (perplexity); or a path to a .json, .jsonl, .csv or .txt file of such, or to the folder of a CORE bundle.
    metrics: of answers; names ("exact_match", "bleu", "rouge", "perplexity") or functions (answer, reference) -> number; by default the
    first three. params: how answers are generated; by default greedily, 256 tokens at most. chat, system: see `Questions`.
    tokenizer: another than the model's, for answers. delimiter: see `compute_multiple_choice`. window, stride: see
    `compute_perplexity`. columns: see `read_rows`. limit: only the first so many rows; of CORE, so many of each task.
    samples: a file that the model's outputs are written to, item by item; `resume` continues where it ends. progress: called with how many
    items are done, and how many there are.

    As much as possible is checked before the model runs: raises InvalidRequestError for wrong data, options that do not apply to the data,
    and a run that cannot be resumed; MissingDependencyError for a metric whose package is missing.
    """
    options = {"metrics": metrics, "params": params, "chat": chat, "system": system, "tokenizer": tokenizer}
    planned = plan(data, columns=columns, limit=limit, **options, delimiter=delimiter, window=window, stride=stride)
    if isinstance(model, LLM):
        return carry_out(model, planned, samples, resume, progress)
    with LLM(model) as llm:
        return carry_out(llm, planned, samples, resume, progress)


def carry_out(
    llm: LLM, planned: Plan, samples: str | Path | None = None, resume: bool = False, progress: Progress | None = None
) -> Evaluation:
    """Runs what `plan` made. Raises what concerns the model, and a run that cannot be resumed."""
    if resume and samples is None:
        raise InvalidRequestError("resume goes on where a file of samples ends; name it")
    started_at = time.perf_counter()
    task = planned.task(llm)
    log = None
    if samples is not None:
        what = {"kind": task.kind, "data": task.digest, "count": len(task), "model": fingerprint(llm), "settings": task.settings}
        log = SampleLog(Path(samples), what, resume)
    before = 0 if log is None else len(log.samples)
    try:
        found = complete(llm, task, log, progress)
    finally:
        if log is not None:
            log.close()
    seconds = time.perf_counter() - started_at
    return Evaluation(llm.name, planned.name, task, task.measure(found), found, len(found) - before, seconds)


def compute_metrics(
    model: LLM | str | Path,
    tokenizer: Tokenizer | str | Path | None,
    data: str | Path | Iterable[Mapping[str, Any]],
    metrics: Sequence[str | Metric] = DEFAULTS,
    **options: Any,
) -> dict[str, Any]:
    """The figures of a model's answers to rows {"prompt", "reference"}, by name; where metrics raised, they stand under "failed" with what
    they raised. tokenizer: None for the model's own. options: as in `evaluate`, and it raises the same."""
    found = evaluate(model, data, tokenizer=tokenizer, metrics=metrics, **options)
    return {**found.metrics, "failed": found.failed} if found.failed else dict(found.metrics)


def fingerprint(llm: LLM) -> str:
    """SHA-256 of everything that an answer depends on: the logits for some tokens, bit for bit, and results of tokenizer and template."""
    count = min(64, llm.context)
    ids = [(7919 * position + 1) % llm.spec.vocab_size for position in range(count)]
    found = hashlib.sha256(np.ascontiguousarray(llm.logits(ids)).tobytes())
    found.update(repr(llm.spec).encode())
    if llm.tokenizer is not None:
        acts = [llm.tokenizer.vocab_size, llm.tokenizer.encode(_PANGRAM), dict(llm.tokenizer.chat_templates)]
        with suppress(ChatTemplateError):  # there is none, or another one than the tokenizer's was given
            acts.append(llm.tokenize([{"role": "user", "content": _PANGRAM}]))
        found.update(digest(acts).encode())
    return found.hexdigest()


_PANGRAM = "The quick brown fox jumps over 13 lazy dogs.\n\tПривет, 世界! ¿Qué? {}[]()<>"
