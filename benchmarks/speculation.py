"""What guessing gains and costs at batch 1: the same requests with and without, in turn, in one run.

Random weights copy nothing, so the texts to be copied are dictated: a `choose` gives the next token of a script, whatever the logits. All
else is as ever: the model computes every row, and a guess that is not the script's is thrown away. The last line is one JSON object,
seconds without over seconds with guesses: copy, the prompt word for word; edit, with every twelfth token another; random, as the model
draws at temperature 1; misleading, eight tokens in no order, of which every pair has been seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from linnet import LLM, SamplingParams

TARGETS = {"copy": 2.0, "edit": None, "random": 1 / 1.03, "misleading": 1 / 1.03}


def dictated(script: list[int]) -> Callable[[Any], int]:
    """A `choose` for one answer."""
    tokens: Iterator[int] = iter(script)
    return lambda logits: next(tokens)


def params_of(task: str, prompt: list[int], count: int, rep: int) -> dict[str, Any]:
    if task == "copy":
        return {"choose": dictated(prompt[:count])}
    if task == "edit":
        return {"choose": dictated([(token + 1) % 1000 + 5 if i % 12 == 11 else token for i, token in enumerate(prompt[:count])])}
    return {"seed": rep, "logit_bias": dict.fromkeys(range(100, 108), 1000.0) if task == "misleading" else {}}


def measure(llm: LLM, task: str, count: int, reps: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"off": [], "auto": []}
    usage: list[tuple[int, int]] = []
    for rep in range(reps + 1):  # the first only warms up
        prompt = np.random.default_rng(rep).integers(5, 1000, count).tolist()
        answers = {}
        for mode in sorted(seconds, reverse=rep % 2 == 0):
            params = SamplingParams(max_tokens=count, ignore_eos=True, speculation=mode, **params_of(task, prompt, count, rep))
            [answer] = llm.generate([prompt], params)
            assert answer.timings.first_token_s is not None
            answers[mode] = answer
            if rep:
                seconds[mode].append(answer.timings.total_s - answer.timings.first_token_s)
        assert answers["auto"].token_ids == answers["off"].token_ids, "a guess changed a token"
        usage.append((answers["auto"].usage.drafted_tokens, answers["auto"].usage.accepted_tokens))
        time.sleep(0.1)
    ratio = median(seconds["off"]) / median(seconds["auto"])
    rates = {mode: round((count - 1) / median(times), 1) for mode, times in seconds.items()}
    target = TARGETS[task]
    reached = None if target is None else ratio >= target
    return {"ratio": round(ratio, 3), "tokens_per_s": rates, "drafted_accepted": usage[1:], "target": target, "reached": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model file, such as make_model.py writes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    arguments = parser.parse_args()
    figures = {}
    with LLM(arguments.model, threads=arguments.threads, context=4 * arguments.tokens, max_batch=1, prefix_cache=False) as llm:
        for task in arguments.only:
            figures[task] = measure(llm, task, arguments.tokens, arguments.reps)
            print(f"{task}: {figures[task]}", flush=True)
        costs = llm.engine.speculator.costs
        rows = [1, 2, 3, 4, 6, 8, 12, 16]
        steps = {n: round(costs.seconds(n) * 1e3, 1) for n in rows if costs.is_known(n)}
    print(json.dumps({"model": arguments.model, "tokens": arguments.tokens, "step_ms": steps, **figures}))


if __name__ == "__main__":
    main()
