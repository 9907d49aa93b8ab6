"""Scores the built-in model with Linnet: sums that were never trained on, answered greedily in batches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from corpus import held_out_sums, right_sum

from linnet import LLM, SamplingParams

MODEL = Path(__file__).parent
LONGEST_ANSWER = 40  # tokens


def score(llm: LLM, count: int, batch: int) -> float:
    """Share of `count` held-out two-digit sums whose answer ends rightly."""
    pairs = held_out_sums(count)
    params = SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER)
    right = 0
    for start in range(0, count, batch):
        part = pairs[start : start + batch]
        questions = [[{"role": "user", "content": f"What is {a} + {b}?"}] for a, b in part]
        answers = llm.generate(questions, params)
        right += sum(right_sum(answer.text, a, b) for answer, (a, b) in zip(answers, part, strict=True))
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="f32", help="type of the weights in memory: f32, q8_0, q4_0 ...")
    parser.add_argument("--ops", default="auto", help="op set: auto, native or reference")
    parser.add_argument("--count", type=int, default=500, help="how many sums")
    parser.add_argument("--batch", type=int, default=16, help="how many at once")
    arguments = parser.parse_args()
    with LLM(str(MODEL), weights=arguments.weights, ops=arguments.ops, max_batch=arguments.batch) as llm:
        share = score(llm, arguments.count, arguments.batch)
    print(f"{share:.1%} of {arguments.count} held-out sums right with {arguments.weights} weights")
    print(json.dumps({"weights": arguments.weights, "ops": arguments.ops, "count": arguments.count, "accuracy": share}))


if __name__ == "__main__":
    main()
