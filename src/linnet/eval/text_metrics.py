"""Measures of answers against references: BLEU by sacrebleu, ROUGE by rouge-score, exact match, and functions of the caller's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from numbers import Real
from statistics import fmean
from typing import Any, TypeAlias

from linnet.errors import InvalidRequestError, MissingDependencyError
from linnet.eval.rows import Question

Reference: TypeAlias = str | Sequence[str]
"""A text, or several of which any will do."""

Metric: TypeAlias = Callable[[str, Any], float]
"""A measure of the caller's own: called with an answer and its reference as the row has it; the mean over all rows is reported."""

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


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
    bleu = _sacrebleu()
    streams = _streams(predictions, references)
    try:
        scorer = bleu(tokenize=tokenize, lowercase=lowercase)
    except (KeyError, AssertionError, RuntimeError) as error:
        raise InvalidRequestError(f"tokenize is {tokenize!r}, which sacrebleu does not take ({error})") from None
    whole = scorer.corpus_score(list(predictions), streams)
    figures: dict[str, float | str] = {"bleu": whole.score}
    for order in (1, 2, 3, 4):
        counts = (list(whole.counts[:order]), list(whole.totals[:order]), whole.sys_len, whole.ref_len)
        figures[f"bleu_{order}"] = bleu.compute_bleu(*counts, smooth_method=scorer.smooth_method, max_ngram_order=order).score / 100
    return {**figures, "brevity_penalty": whole.bp, "bleu_signature": str(scorer.get_signature())}


def compute_rouge(predictions: Sequence[str], references: Sequence[Reference], *, stemmer: bool = False) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum (Lin, 2004), by rouge-score: means of the F-measures, 0 to 1; of several references the best counts.

    Lsum takes lines for sentences. stemmer: compare English words without their endings. Raises as `compute_bleu` does.
    """
    each = _rouge_each(predictions, references, stemmer)
    return {name: fmean(values) for name, values in each.items()}


def compute_exact_match(predictions: Sequence[str], references: Sequence[Reference]) -> float:
    """Share of the predictions that equal a reference, white space around both left aside."""
    _streams(predictions, references)
    return fmean(_matches(predictions, references))


def check_metrics(metrics: Sequence[str | Metric]) -> dict[str, str | Metric]:
    """The metrics by name. Raises InvalidRequestError for unknown and repeated ones, MissingDependencyError for what they need."""
    named: dict[str, str | Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric not in BUILT_IN:
            raise InvalidRequestError(
                f"there is no metric {metric!r}; there are {', '.join(BUILT_IN)}, and functions (answer, reference) -> number"
            )
        if not isinstance(metric, str) and not callable(metric):
            raise InvalidRequestError(f"{metric!r} is no metric; it must be a name or a function (answer, reference) -> number")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        if name in named or (not isinstance(metric, str) and name in BUILT_IN):
            raise InvalidRequestError(f"there are two metrics of the name {name!r}; give each a name of its own")
        named[name] = metric
    if not named:
        raise InvalidRequestError("there are no metrics; name at least one")
    if "bleu" in named:
        _sacrebleu()
    if "rouge" in named:
        _rouge_scorer()
    return named


def measure(metric: str | Metric, predictions: Sequence[str], questions: Sequence[Question]) -> Measured:
    """One metric over all answers. Raises what the caller's function raises, and InvalidRequestError where it gives no finite number."""
    references = [question.references for question in questions]
    if metric == "bleu":
        sentence = _sacrebleu()(effective_order=True)
        each = [sentence.sentence_score(text, list(several)).score for text, several in zip(predictions, references, strict=True)]
        return Measured(compute_bleu(predictions, references), {"bleu": each})
    if metric == "rouge":
        values = _rouge_each(predictions, references, False)
        return Measured({name: fmean(each) for name, each in values.items()}, values)
    if metric == "exact_match":
        matches = _matches(predictions, references)
        return Measured({metric: fmean(matches)}, {metric: matches})
    assert callable(metric)
    name = getattr(metric, "__name__", type(metric).__name__)
    own = [_number(metric(text, _as_given(row)), index) for index, (text, row) in enumerate(zip(predictions, questions, strict=True))]
    return Measured({name: fmean(own)}, {name: own})


BUILT_IN = ("exact_match", "bleu", "rouge", "perplexity")
"""perplexity: of the reference given the prompt (see `Likelihood`), not of the answer."""


def _as_given(question: Question) -> Any:
    return list(question.references) if question.several else question.references[0]


def _number(value: Any, index: int) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidRequestError(f"gave {value!r} for row {index}; it must give a finite number")
    return float(value)


def _matches(predictions: Sequence[str], references: Sequence[Reference]) -> list[float]:
    pairs = zip(predictions, references, strict=True)
    return [float(text.strip() in [reference.strip() for reference in _several(given)]) for text, given in pairs]


def _rouge_each(predictions: Sequence[str], references: Sequence[Reference], stemmer: bool) -> dict[str, list[float]]:
    new_scorer = _rouge_scorer()
    _streams(predictions, references)
    scorer = new_scorer(list(ROUGE), use_stemmer=stemmer)
    scores = [scorer.score_multi(_several(given), text) for text, given in zip(predictions, references, strict=True)]
    return {name: [float(score[name].fmeasure) for score in scores] for name in ROUGE}


def _several(reference: Reference) -> list[str]:
    return [reference] if isinstance(reference, str) else list(reference)


def _streams(predictions: Sequence[str], references: Sequence[Reference]) -> list[list[str | None]]:
    """The references as sacrebleu takes them: the first of each prediction, the second of each, with None where there is none."""
    if len(predictions) != len(references):
        raise InvalidRequestError(f"there are {len(predictions)} predictions and {len(references)} references; give one for each")
    if not predictions:
        raise InvalidRequestError("there are no predictions; give at least one")
    several = [_several(given) for given in references]
    empty = next((index for index, given in enumerate(several) if not given), None)
    if empty is not None:
        raise InvalidRequestError(f"references[{empty}] is empty; give at least one text")
    return [list(stream) for stream in zip_longest(*several)]


def _sacrebleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MissingDependencyError('BLEU needs sacrebleu: pip install "linnet[eval]"') from None
    return BLEU


def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingDependencyError('ROUGE needs rouge-score: pip install "linnet[eval]"') from None
    return RougeScorer
