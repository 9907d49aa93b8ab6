"""BLEU, ROUGE and exact match: the figures of the libraries, to the last digit."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from linnet import InvalidRequestError
from linnet.eval import compute_bleu, compute_exact_match, compute_rouge

WORDS = "the linnet sings a song of one bird, and two sing: it's 3.5 o'clock!\nNew line ünïcode 日本 (brackets) - dash".split(" ")
texts = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def related(seed: int, count: int = 40) -> tuple[list[str], list[str]]:
    """Sentences, and the same with some words left out or swapped."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(count)]
    predictions = [
        " ".join(draw.choice(WORDS) if draw.random() < 0.2 else word for word in text.split(" ") if draw.random() < 0.9)
        for text in references
    ]
    return predictions, references


@settings(max_examples=60, deadline=None)
@given(pairs=pairs)
def test_bleu_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    predictions, references = [a for a, _ in pairs], [b for _, b in pairs]
    found = compute_bleu(predictions, references)
    for order in (1, 2, 3, 4):
        expected = BLEU(max_ngram_order=order).corpus_score(predictions, [references])
        assert found[f"bleu_{order}"] == expected.score / 100
    assert found["bleu"] == expected.score
    assert found["brevity_penalty"] == expected.bp


def test_bleu_of_likely_answers_with_its_signature() -> None:
    predictions, references = related(1)
    scorer = BLEU()
    expected = scorer.corpus_score(predictions, [references])
    found = compute_bleu(predictions, references)
    assert 20 < found["bleu"] == expected.score  # type: ignore[operator]
    assert found["bleu_signature"] == str(scorer.get_signature())
    assert found["bleu_1"] > found["bleu_2"] > found["bleu_3"] > found["bleu_4"] == found["bleu"] / 100  # type: ignore[operator]
    lower = compute_bleu([text.upper() for text in predictions], references, lowercase=True, tokenize="char")
    assert lower["bleu"] == BLEU(lowercase=True, tokenize="char").corpus_score(predictions, [references]).score


def test_some_have_more_references_than_others() -> None:
    predictions, references = related(2, 6)
    several = [[text] if i % 2 else [text, predictions[i]] for i, text in enumerate(references)]
    streams = [[many[0] for many in several], [many[1] if len(many) > 1 else None for many in several]]
    bleu = BLEU()
    found = compute_bleu(predictions, several)
    assert found["bleu"] == bleu.corpus_score(predictions, streams).score
    assert found["bleu_signature"] == str(bleu.get_signature())
    assert "nrefs:var" in str(found["bleu_signature"])
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score_multi(many, text)["rougeL"].fmeasure for text, many in zip(predictions, several, strict=True)]
    assert compute_rouge(predictions, several)["rougeL"] == fmean(expected)
    assert compute_exact_match(predictions, several) >= 0.5


few_words = st.lists(st.sampled_from(["a", "b", "c", "a\nb", "\n", ""]), max_size=40).map(" ".join)  # many subsequences as long as others
same_words = st.lists(st.tuples(few_words, few_words), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(pairs=pairs | same_words, stemmer=st.booleans())
def test_rouge_is_rouge_scores(pairs: list[tuple[str, str]], stemmer: bool) -> None:
    predictions, references = [a for a, _ in pairs], [b for _, b in pairs]
    found = compute_rouge(predictions, references, stemmer=stemmer)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stemmer)
    scores = [scorer.score(reference, prediction) for prediction, reference in pairs]
    assert found == {name: fmean(score[name].fmeasure for score in scores) for name in found}
    assert list(found) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def test_exact_match_leaves_white_space_around_aside() -> None:
    assert compute_exact_match([" yes\n", "no", "a  b"], ["yes", "No", "a b"]) == 1 / 3


@pytest.mark.parametrize("compute", [compute_bleu, compute_rouge, compute_exact_match])
def test_lists_that_do_not_go_together_are_refused(compute) -> None:
    with pytest.raises(InvalidRequestError, match="there are 1 predictions and 2 references"):
        compute(["a"], ["a", "b"])
    with pytest.raises(InvalidRequestError, match="there are no predictions"):
        compute([], [])
    with pytest.raises(InvalidRequestError, match=r"references\[1\] is empty"):
        compute(["a", "b"], [["a"], []])


def test_an_unknown_way_of_cutting_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="tokenize is 'no such'"):
        compute_bleu(["a"], ["a"], tokenize="no such")
