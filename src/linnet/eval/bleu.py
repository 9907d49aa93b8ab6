"""BLEU of a corpus and of each of its sentences, by sacrebleu, from one count of their n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from linnet.errors import InvalidRequestError, MissingDependencyError


class Bleu:
    """tokenize, lowercase: as sacrebleu calls them. Raises MissingDependencyError without it, InvalidRequestError for a tokenizer that it
    does not know."""

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError:
            raise MissingDependencyError('BLEU needs sacrebleu: pip install "linnet[eval]"') from None
        try:
            self._corpus = BLEU(tokenize=tokenize, lowercase=lowercase)
            self._sentence = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
        except (KeyError, AssertionError, RuntimeError) as error:
            raise InvalidRequestError(f"tokenize is {tokenize!r}, which sacrebleu does not take ({error})") from None

    def score(self, predictions: Sequence[str], references: Sequence[list[str]]) -> tuple[dict[str, float | str], list[float]]:
        """The scores of the corpus by name (see `compute_bleu`), and each sentence's score, 0 to 100."""
        scores = [self._sentence.sentence_score(text, given) for text, given in zip(predictions, references, strict=True)]
        counts, totals = _sums([score.counts for score in scores]), _sums([score.totals for score in scores])
        said, given = sum(score.sys_len for score in scores), sum(score.ref_len for score in scores)

        def corpus(order: int) -> Any:
            smooth = self._corpus.smooth_method
            return self._corpus.compute_bleu(counts[:order], totals[:order], said, given, smooth_method=smooth, max_ngram_order=order)

        figures: dict[str, float | str] = {"bleu": corpus(4).score}
        figures |= {f"bleu_{order}": corpus(order).score / 100 for order in (1, 2, 3, 4)}
        figures |= {"brevity_penalty": corpus(4).bp, "bleu_signature": self._signature({len(several) for several in references})}
        return figures, [score.score for score in scores]

    def _signature(self, counts: set[int]) -> str:
        """It says how many references a text has, which sacrebleu learns as it scores a corpus: one of empty texts will do."""
        self._corpus.corpus_score([""] * len(counts), list(zip_longest(*([""] * count for count in counts))))
        return str(self._corpus.get_signature())


def _sums(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]
