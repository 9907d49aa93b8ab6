"""Measures of answers against references: BLEU by sacrebleu, ROUGE by rouge-score, exact match, and functions of the caller's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from statistics import fmean
from typing import Any, TypeAlias

from linnet.errors import InvalidRequestError
from linnet.eval.bleu import Bleu
from linnet.eval.rouge import NAMES, Rouge
from linnet.eval.rows import Question

Reference: TypeAlias = str | Sequence[str]
"""A text, or several of which any will do."""

Metric: TypeAlias = Callable[[str, Any], float]
"""A measure of the caller's own: called with an answer and its reference as the row has it; the mean over all rows is reported."""

BUILT_IN = {
    "exact_match": ("exact_match",),
    "bleu": ("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "brevity_penalty", "bleu_signature"),
    "rouge": NAMES,
    "perplexity": ("perplexity", "byte_perplexity", "bits_per_byte"),
}
"""The metrics that have a name, and their figures. perplexity: of the reference given the prompt, not of the answer."""


@dataclass(frozen=True)
class Measured:
    """figures: of all rows together. each: of every row, by the name of a figure, larger being better. failed: metrics that raised, and
    what."""

    figures: dict[str, float | str]
    each: dict[str, list[float]]
    failed: dict[str, str] = field(default_factory=dict)


def compute_bleu(
    predictions: Sequence[str], references: Sequence[Reference], *, tokenize: str = "13a", lowercase: bool = False
) -> dict[str, float | str]:
    """Corpus BLEU (Papineni et al., 2002), by sacrebleu (Post, 2018).

    `bleu` is sacrebleu's score, 0 to 100; `bleu_1` to `bleu_4` count n-grams up to that length and run from 0 to 1, so that bleu_4 is
    a hundredth of bleu; `brevity_penalty` from 0 to 1; `bleu_signature` says all that decides the figures. tokenize: as sacrebleu calls
    it. Raises InvalidRequestError for lists of different lengths or none, MissingDependencyError without sacrebleu.
    """
    return Bleu(tokenize, lowercase).score(predictions, _pairs(predictions, references))[0]


def compute_rouge(predictions: Sequence[str], references: Sequence[Reference], *, stemmer: bool = False) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum (Lin, 2004), by rouge-score: means of the F-measures, 0 to 1; of several references the best counts.

    Lsum takes lines for sentences. stemmer: compare English words without their endings. Raises as `compute_bleu` does.
    """
    each = _rouge(predictions, references, stemmer)
    return {name: fmean(values) for name, values in each.items()}


def compute_exact_match(predictions: Sequence[str], references: Sequence[Reference]) -> float:
    """Share of the predictions that equal a reference, white space around both left aside."""
    return fmean(_matches(predictions, references))


def check_metrics(metrics: Sequence[str | Metric]) -> dict[str, str | Metric]:
    """The metrics by name. Raises InvalidRequestError for unknown and repeated ones, MissingDependencyError for what they need."""
    named: dict[str, str | Metric] = {}
    taken = {figure for figures in BUILT_IN.values() for figure in figures} | {"failed", *BUILT_IN}
    for metric in metrics:
        if isinstance(metric, str) and metric not in BUILT_IN:
            raise InvalidRequestError(
                f"there is no metric {metric!r}; there are {', '.join(BUILT_IN)}, and functions (answer, reference) -> number"
            )
        if not isinstance(metric, str) and not callable(metric):
            raise InvalidRequestError(f"{metric!r} is no metric; it must be a name or a function (answer, reference) -> number")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        if name in named or (not isinstance(metric, str) and name in taken):
            raise InvalidRequestError(f"there are two metrics of the name {name!r}; give each a name of its own")
        named[name] = metric
    if not named:
        raise InvalidRequestError("there are no metrics; name at least one")
    if "bleu" in named:
        Bleu()
    if "rouge" in named:
        Rouge()
    return named


def measure(metric: str | Metric, predictions: Sequence[str], questions: Sequence[Question]) -> Measured:
    """One metric over all answers. Raises what the caller's function raises, and InvalidRequestError where it gives no finite number."""
    references = [question.references for question in questions]
    if metric == "bleu":
        figures, scores = Bleu().score(predictions, _pairs(predictions, references))
        return Measured(figures, {"bleu": scores})
    if metric == "rouge":
        values = _rouge(predictions, references)
        return Measured({name: fmean(each) for name, each in values.items()}, values)
    if metric == "exact_match":
        matches = _matches(predictions, references)
        return Measured({metric: fmean(matches)}, {metric: matches})
    assert callable(metric)
    name = getattr(metric, "__name__", type(metric).__name__)
    own = [_number(metric(text, _as_given(row)), index) for index, (text, row) in enumerate(zip(predictions, questions, strict=True))]
    return Measured({name: fmean(own)}, {name: own})


def _as_given(question: Question) -> Any:
    return list(question.references) if question.several else question.references[0]


def _number(value: Any, index: int) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidRequestError(f"gave {value!r} for row {index}; it must give a finite number")
    return float(value)


def _matches(predictions: Sequence[str], references: Sequence[Reference]) -> list[float]:
    pairs = zip(predictions, _pairs(predictions, references), strict=True)
    return [float(text.strip() in [reference.strip() for reference in several]) for text, several in pairs]


def _rouge(predictions: Sequence[str], references: Sequence[Reference], stemmer: bool = False) -> dict[str, list[float]]:
    scorer = Rouge(stemmer)
    scores = [scorer.score(given, text) for text, given in zip(predictions, _pairs(predictions, references), strict=True)]
    return {name: [score[name] for score in scores] for name in NAMES}


def _pairs(predictions: Sequence[str], references: Sequence[Reference]) -> list[list[str]]:
    """The references of each prediction, of which there is at least one."""
    if len(predictions) != len(references):
        raise InvalidRequestError(f"there are {len(predictions)} predictions and {len(references)} references; give one for each")
    if not predictions:
        raise InvalidRequestError("there are no predictions; give at least one")
    several = [[given] if isinstance(given, str) else list(given) for given in references]
    empty = next((index for index, given in enumerate(several) if not given), None)
    if empty is not None:
        raise InvalidRequestError(f"references[{empty}] is empty; give at least one text")
    return several
