"""What evaluating costs besides generating: 1,000 prompts through `linnet.eval`, with its metrics, against `LLM.generate` alone.

    python benchmarks/evaluate.py                        # both models: four minutes on two cores
    python benchmarks/evaluate.py --models tiny          # a minute

The built-in model is the hardest case: its steps take about a millisecond, so that what Python does beside them weighs most. The other
has 100 million random weights in Q4_0, which is still little. Rounds are interleaved; the best of each counts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet import LLM, SamplingParams
from linnet.eval import evaluate
from linnet.load.random_weights import open_random
from linnet.tensors import Q4_0

TINY = Path(__file__).parents[1] / "models" / "tiny"
LARGER = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
"""Where the config of the larger model differs from tiny's: 103 million weights."""

MODELS = {"tiny": (6, 64), "larger": (3, 16)}
"""Rounds, and most tokens of an answer: of random weights each has as many."""


@contextmanager
def opened(name: str, threads: int | None) -> Iterator[LLM]:
    if name == "tiny":
        with LLM("tiny", threads=threads) as llm:
            yield llm
        return
    with tempfile.TemporaryDirectory() as folder:
        config = json.loads((TINY / "config.json").read_text()) | LARGER
        (Path(folder) / "config.json").write_text(json.dumps(config))
        with LLM.from_checkpoint(open_random(folder, Q4_0), tokenizer=TINY, threads=threads) as llm:
            yield llm


def measure(name: str, prompts: int, threads: int | None) -> dict[str, float]:
    pairs = [(10 + n % 90, 10 + n // 90) for n in range(prompts)]
    rows = [{"prompt": f"What is {a} + {b}?", "reference": f"so {a} + {b} = {a + b}"} for a, b in pairs]
    messages = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    repeats, most = MODELS[name]
    params = SamplingParams(temperature=0.0, max_tokens=most)
    seconds: dict[str, list[float]] = {"generate": [], "evaluate": [], "of which running": []}
    with opened(name, threads) as llm:
        llm.generate(messages[:100], params)
        evaluate(llm, rows[:2], params=params, chat=True)  # imports the libraries
        for _ in range(repeats):
            start = time.perf_counter()
            completions = llm.generate(messages, params)
            seconds["generate"].append(time.perf_counter() - start)
            start = time.perf_counter()
            found = evaluate(llm, rows, params=params, chat=True)
            seconds["evaluate"].append(time.perf_counter() - start)
            seconds["of which running"].append(found.seconds)
            print(f"{name}: " + ", ".join(f"{what} {values[-1]:.3f} s" for what, values in seconds.items()), flush=True)
    assert [sample["prediction"] for sample in found.samples] == [completion.text for completion in completions]
    tokens = sum(len(completion.token_ids) for completion in completions)
    generating = min(seconds["generate"])
    return {
        "tokens_per_s": round(tokens / generating),
        "generating_s": round(generating, 3),
        "measuring_s": round(min(a - b for a, b in zip(seconds["evaluate"], seconds["of which running"], strict=True)), 3),
        "evaluating_over_generating": round(min(seconds["evaluate"]) / generating, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    figures = {name: measure(name, arguments.prompts, arguments.threads) for name in arguments.models}
    print(json.dumps({"prompts": arguments.prompts, **figures}))


if __name__ == "__main__":
    main()
