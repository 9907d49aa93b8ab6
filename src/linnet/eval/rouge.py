"""ROUGE of pairs of texts: rouge-score's figures, to the last digit, in a tenth of its time where answers are long.

Words and n-grams are rouge-score's own. Its longest common subsequences fill a table of every word by every other in Python, which takes
longer than a fast model's answer; here a row of that table is one integer, with a bit for each word (Hyyrö, 2004).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from linnet.errors import MissingDependencyError

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge:
    """Scores pairs. stemmer: compare English words without their endings. Raises MissingDependencyError without rouge-score."""

    def __init__(self, stemmer: bool = False) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.scoring import fmeasure
            from rouge_score.tokenizers import DefaultTokenizer
        except ImportError:
            raise MissingDependencyError('ROUGE needs rouge-score: pip install "linnet[eval]"') from None
        # What is cut into words for n-grams is asked for again below, and a prediction anew for each of its references.
        self.tokenize = lru_cache(maxsize=256)(DefaultTokenizer(stemmer).tokenize)
        self._fmeasure = fmeasure
        self._ngrams = RougeScorer(["rouge1", "rouge2"], tokenizer=self)

    def score(self, references: Sequence[str], prediction: str) -> dict[str, float]:
        """The F-measures by name; of several references the best of each."""
        each = [self._score(reference, prediction) for reference in references]
        return {name: max(score[name] for score in each) for name in NAMES}

    def _score(self, reference: str, prediction: str) -> dict[str, float]:
        found = {name: float(score.fmeasure) for name, score in self._ngrams.score(reference, prediction).items()}
        words, said = self.tokenize(reference), self.tokenize(prediction)
        found["rougeL"] = self._of(len(_common(words, said)), len(words), len(said))
        if "\n" not in reference and "\n" not in prediction:
            return {**found, "rougeLsum": found["rougeL"]}
        sentences = [[self.tokenize(line) for line in text.split("\n")] for text in (reference, prediction)]
        return {**found, "rougeLsum": self._of(_union(*sentences), *(sum(map(len, lines)) for lines in sentences))}

    def _of(self, common: int, words: int, said: int) -> float:
        return float(self._fmeasure(common / said, common / words)) if words and said else 0.0


def _union(reference: Sequence[list[str]], prediction: Sequence[list[str]]) -> int:
    """How many words of the reference's sentences are in a longest common subsequence with some sentence of the prediction; each counts at
    most as often as the prediction has it."""
    hits: Counter[str] = Counter()
    for words in reference:
        hits.update(words[place] for place in set().union(*(_common(words, said) for said in prediction)))
    return (hits & Counter(word for said in prediction for word in said)).total()


def _common(words: Sequence[str], said: Sequence[str]) -> list[int]:
    """Places in `words` of a longest subsequence that `said` has too; of several the one that rouge-score takes."""
    places: dict[str, int] = {}
    for place, word in enumerate(said):
        places[word] = places.get(word, 0) | 1 << place
    # Row i is of the first i words. The first j of `said` have as many in common with them as their j bits in the row have zeros.
    whole = (1 << len(said)) - 1
    rows = [whole]
    for word in words:
        matches = rows[-1] & places.get(word, 0)
        rows.append((rows[-1] + matches | rows[-1] - matches) & whole)
    found = []
    i, j = len(words), len(said)
    while i and j:
        if words[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif (rows[i - 1] & (first := (1 << j) - 1)).bit_count() > (rows[i] & first).bit_count():
            j -= 1
        else:
            i -= 1
    return found
