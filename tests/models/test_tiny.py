"""The built-in model: its scores, its corpus, its chat template."""

from __future__ import annotations

import re
import sys
from itertools import islice
from pathlib import Path

import pytest

from linnet import LLM, SamplingParams
from linnet.errors import ChatTemplateError, InvalidRequestError

MODEL = Path(__file__).parents[2] / "models" / "tiny"
sys.path.append(str(MODEL))
import corpus  # noqa: E402
from score import score  # noqa: E402

COUNT = 500
ALLOWED_LOSS = {"q8_0": 0.01, "q4_0": 0.05}  # against the score in f32


@pytest.fixture(scope="module")
def f32_score() -> float:
    with LLM(str(MODEL), weights="f32") as llm:
        return score(llm, COUNT)


def test_held_out_sums_in_f32(f32_score: float) -> None:
    assert f32_score >= 0.95


@pytest.mark.parametrize("weights", ["q8_0", "q4_0"])
def test_held_out_sums_quantized(weights: str, f32_score: float) -> None:
    with LLM(str(MODEL), weights=weights) as llm:
        assert score(llm, COUNT) >= f32_score - ALLOWED_LOSS[weights]


def test_first_example_of_the_readme() -> None:
    with LLM("tiny") as llm:
        answer = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], SamplingParams(temperature=0.0))
    assert answer.text.endswith("17 + 25 = 42")
    assert answer.finish_reason == "stop"


def test_template_refuses_roles_that_were_not_trained() -> None:
    with LLM("tiny") as llm:
        with pytest.raises(ChatTemplateError, match="use system, user or assistant"):
            llm.chat([{"role": "developer", "content": "Hello!"}])
        with pytest.raises(InvalidRequestError, match="no message with tool_calls stands before it"):
            llm.chat([{"role": "tool", "content": "Hello!"}])


def test_corpus_holds_no_test_sum_and_no_wrong_one() -> None:
    texts = list(islice(corpus.documents(7), 5000))
    sums = [(int(a), int(b), int(c)) for text in texts for a, b, c in re.findall(r"(?<![+-] )(\d+) \+ (\d+) = (\d+)", text)]
    assert len(sums) > 3000
    assert all(a + b == c and not corpus.held_out(a, b) for a, b, c in sums)


def test_a_tenth_of_the_sums_is_held_out() -> None:
    held = sum(corpus.held_out(a, b) for a in range(100) for b in range(100))
    assert held == 810  # of the 8,100 with two digits each
