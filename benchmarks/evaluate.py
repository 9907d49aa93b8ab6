"""What evaluating costs besides generating: 1,000 prompts through `linnet.eval`, with its metrics, against `LLM.generate` alone.

The built-in model is the hardest case: its steps take about a millisecond, so that what Python does beside them weighs most.
"""

from __future__ import annotations

import argparse
import json
import time

from linnet import LLM, SamplingParams
from linnet.eval import evaluate

REPEATS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    pairs = [(10 + n % 90, 10 + n // 90) for n in range(arguments.prompts)]
    rows = [{"prompt": f"What is {a} + {b}?", "reference": f"so {a} + {b} = {a + b}"} for a, b in pairs]
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    params = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)
    seconds: dict[str, list[float]] = {"generate": [], "evaluate": [], "of which running": []}
    with LLM(arguments.model, threads=arguments.threads) as llm:
        llm.generate(prompts, params)
        evaluate(llm, rows[:2], params=params, chat=True)  # imports the libraries
        for _ in range(REPEATS):
            start = time.perf_counter()
            completions = llm.generate(prompts, params)
            seconds["generate"].append(time.perf_counter() - start)
            start = time.perf_counter()
            found = evaluate(llm, rows, params=params, chat=True)
            seconds["evaluate"].append(time.perf_counter() - start)
            seconds["of which running"].append(found.seconds)
            print(", ".join(f"{name} {values[-1]:.3f} s" for name, values in seconds.items()), flush=True)
    assert [sample["prediction"] for sample in found.samples] == [completion.text for completion in completions]
    tokens = sum(len(completion.token_ids) for completion in completions)
    best = {name: min(values) for name, values in seconds.items()}
    figures = {
        "prompts": arguments.prompts,
        "tokens_per_s": round(tokens / best["generate"]),
        "running_over_generating": round(best["of which running"] / best["generate"], 3),
        "evaluating_over_generating": round(best["evaluate"] / best["generate"], 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
