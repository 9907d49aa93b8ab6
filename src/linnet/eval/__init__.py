"""Measures how good a model is: perplexity, BLEU, ROUGE, exact match, multiple choice, CORE. Knows no terminal."""

from linnet.eval.choices import compute_multiple_choice
from linnet.eval.core import compute_core
from linnet.eval.evaluation import Evaluation, compute_metrics, evaluate
from linnet.eval.perplexity import Perplexity, compute_perplexity
from linnet.eval.text_metrics import compute_bleu, compute_exact_match, compute_rouge

__all__ = [
    "Evaluation",
    "Perplexity",
    "compute_bleu",
    "compute_core",
    "compute_exact_match",
    "compute_metrics",
    "compute_multiple_choice",
    "compute_perplexity",
    "compute_rouge",
    "evaluate",
]
