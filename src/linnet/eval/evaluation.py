"""`evaluate`: a model, data, and what came of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linnet.engine.params import SamplingParams
from linnet.errors import InvalidRequestError
from linnet.eval.choices import Choices
from linnet.eval.core import Core
from linnet.eval.generation import DEFAULTS, GREEDY, Questions
from linnet.eval.perplexity import Texts
from linnet.eval.rows import Choice, Question, check_rows, read_rows
from linnet.eval.sample_log import SampleLog
from linnet.eval.task import Sample, Task, complete, digest
from linnet.eval.text_metrics import Metric
from linnet.llm import LLM
from linnet.text.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    metrics: the figures by name. failed: metrics that raised, and what. each: a figure's value for every row (for every text, where
    the data are texts), larger being better. samples: what the model gave for each item. seconds: of this run, which ran `ran` of the
    items; the others stood in the file of samples.
    """

    kind: str
    model: str
    data: str
    settings: dict[str, Any]
    metrics: dict[str, float | str]
    failed: dict[str, str]
    each: dict[str, list[float]]
    samples: list[Sample]
    ran: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """As JSON holds it, without the samples: a figure that is not finite is null."""
        from linnet import __version__

        finite = {name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in self.metrics.items()}
        return {
            "model": self.model,
            "data": self.data,
            "kind": self.kind,
            "metrics": finite,
            "failed": self.failed,
            "settings": self.settings,
            "items": len(self.samples),
            "ran": self.ran,
            "seconds": self.seconds,
            "linnet": __version__,
        }


def evaluate(
    model: LLM | str | Path,
    data: str | Path | Iterable[Mapping[str, Any]],
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    metrics: Sequence[str | Metric] | None = None,
    params: SamplingParams | None = None,
    chat: bool | None = None,
    system: str | None = None,
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
    samples: a file that gets what the model gave, item by item; `resume` goes on where it stops. progress: called with how many items
    are done, and how many there are.

    Everything that can be is checked before the model runs: raises InvalidRequestError for data, options that the data has no use for,
    and a run that cannot be resumed; MissingDependencyError for a metric whose package is missing.
    """
    options = {"metrics": metrics, "params": params, "chat": chat, "system": system, "tokenizer": tokenizer}
    likelihood = {"delimiter": delimiter, "window": window, "stride": stride}
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"limit is {limit}; it must be at least 1")
    if isinstance(model, (str, Path)):
        with LLM(model) as llm:
            given: dict[str, Any] = {**options, **likelihood, "columns": columns, "limit": limit}
            return evaluate(llm, data, **given, samples=samples, resume=resume, progress=progress)
    task = _task(model, data, columns, limit, {**options, **likelihood})
    log = None
    if samples is not None:
        what = {"kind": task.kind, "data": task.digest, "count": len(task), "model": fingerprint(model), "settings": task.settings}
        log = SampleLog(Path(samples), what, resume)
    elif resume:
        raise InvalidRequestError("resume goes on where a file of samples ends; name it")
    started_at, before = time.perf_counter(), 0 if log is None else len(log.samples)
    try:
        found = complete(model, task, log, progress)
    finally:
        if log is not None:
            log.close()
    seconds = time.perf_counter() - started_at
    measured = task.measure(found)
    named = str(data) if isinstance(data, (str, Path)) else "rows"
    ran = len(found) - before
    return Evaluation(task.kind, model.name, named, task.settings, measured.figures, measured.failed, measured.each, found, ran, seconds)


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
    """SHA-256 of what decides a model's answers: its logits for some tokens, bit for bit, and how its tokenizer and templates act."""
    count = min(64, llm.context)
    ids = [(7919 * position + 1) % llm.spec.vocab_size for position in range(count)]
    found = hashlib.sha256(np.ascontiguousarray(llm.logits(ids)).tobytes())
    found.update(repr(llm.spec).encode())
    if llm.tokenizer is not None:
        acts = [llm.tokenizer.vocab_size, llm.tokenizer.encode(_PANGRAM), dict(llm.tokenizer.chat_templates)]
        found.update(digest(acts).encode())
    return found.hexdigest()


_PANGRAM = "The quick brown fox jumps over 13 lazy dogs.\n\tПривет, 世界! ¿Qué? {}[]()<>"


def _task(llm: LLM, data: Any, columns: Mapping[str, str] | None, limit: int | None, options: dict[str, Any]) -> Task:
    """The task that the data asks for, with the options that it has a use for; others are refused by name."""
    path = Path(data) if isinstance(data, (str, Path)) else None
    if path is not None and path.is_dir():
        _refuse(options, (), "a CORE bundle")
        return Core(llm, path, limit)
    rows: Any = check_rows(data if path is None else read_rows(path, columns), "data" if path is None else str(path))[:limit]
    if isinstance(rows[0], Question):
        _refuse(options, ("metrics", "params", "chat", "system", "tokenizer"), "rows with a reference")
        own = options["tokenizer"]
        tokenizer = own if own is None or isinstance(own, Tokenizer) else Tokenizer(own)
        metrics, params = options["metrics"] or DEFAULTS, options["params"] or GREEDY
        return Questions(llm, rows, metrics, params, bool(options["chat"]), options["system"], tokenizer)
    if isinstance(rows[0], Choice):
        _refuse(options, ("delimiter",), "rows with choices")
        return Choices(llm, rows, " " if options["delimiter"] is None else options["delimiter"])
    _refuse(options, ("window", "stride"), "texts")
    return Texts(llm, rows, options["window"], options["stride"], None)


def _refuse(options: Mapping[str, Any], used: Sequence[str], what: str) -> None:
    useless = next((name for name, value in options.items() if value is not None and name not in used), None)
    if useless is not None:
        raise InvalidRequestError(f"{useless} says nothing about {what}; leave it out")
