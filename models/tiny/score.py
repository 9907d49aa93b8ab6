"""Scores the built-in model with Linnet: sums that were never trained on, answered greedily in batches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from corpus import held_out_sums, right_sum

from linnet import LLM, SamplingParams
from linnet.eval import compute_metrics

MODEL = Path(__file__).parent
LONGEST_ANSWER = 40  # tokens


def score(llm: LLM, count: int) -> float:
    """Share of `count` held-out two-digit sums whose answer ends rightly."""
    rows = [{"prompt": f"What is {a} + {b}?", "reference": f"{a} {b}"} for a, b in held_out_sums(count)]
    params = SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER)
    return float(compute_metrics(llm, None, rows, metrics=[is_right], params=params, chat=True)["is_right"])


def is_right(answer: str, pair: str) -> bool:
    a, b = map(int, pair.split())
    return right_sum(answer, a, b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="f32", help="type of the weights in memory: f32, q8_0, q4_0 ...")
    parser.add_argument("--ops", default="auto", help="op set: auto, native or reference")
    parser.add_argument("--count", type=int, default=500, help="how many sums")
    parser.add_argument("--batch", type=int, default=16, help="how many at once")
    arguments = parser.parse_args()
    with LLM(str(MODEL), weights=arguments.weights, ops=arguments.ops, max_batch=arguments.batch) as llm:
        share = score(llm, arguments.count)
    print(f"{share:.1%} of {arguments.count} held-out sums right with {arguments.weights} weights")
    print(json.dumps({"weights": arguments.weights, "ops": arguments.ops, "count": arguments.count, "accuracy": share}))


if __name__ == "__main__":
    main()
