"""What beams cost: seconds a token of a search with four, over those of four greedy answers to the same prompt in one batch.

    python benchmarks/beams.py                        # Qwen2.5-0.5B's shape in Q4_0: its 152,000 tokens are the dearest to choose among
    python benchmarks/beams.py FOLDER --beams 8       # the shape in FOLDER/config.json

Weights are random; both run in turn, so that what disturbs the machine disturbs both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from linnet import LLM, SamplingParams
from linnet.load.random_weights import open_random
from linnet.tensors import TYPES

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 4096,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
TARGET = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--weights", default="q4_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--reps", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        if asked.folder is None:
            (folder / "config.json").write_text(json.dumps(QWEN))
        checkpoint = replace(open_random(folder, TYPES[asked.weights]), metadata=None)  # no tokenizer: token ids go in and come out
        with LLM.from_checkpoint(checkpoint, weights=asked.weights, threads=asked.threads, context=1024, prefix_cache=False) as llm:
            print(json.dumps(compare(llm, asked.beams, asked.tokens, asked.reps)))


def compare(llm: LLM, beams: int, tokens: int, reps: int) -> dict[str, object]:
    """The medians of both, and of the rounds' ratios."""
    common = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, speculation="off")
    random = np.random.default_rng(0)
    seconds: list[tuple[float, float]] = []
    for _ in range(reps + 1):  # the first one warms up
        prompt = random.integers(0, llm.spec.vocab_size, 32).tolist()
        start = time.perf_counter()
        llm.generate(prompt, replace(common, n=beams))
        between = time.perf_counter()
        llm.generate(prompt, replace(common, num_beams=beams))
        seconds.append((between - start, time.perf_counter() - between))
    batch, search = (median(times) / tokens for times in zip(*seconds[1:], strict=True))
    ratio = median(search / batch for batch, search in seconds[1:])
    figures = {"batch_token_s": round(batch, 5), "beams_token_s": round(search, 5), "ratio": round(ratio, 3), "target": TARGET}
    return {"beams": beams, "vocabulary": llm.spec.vocab_size, **figures, "passed": ratio <= TARGET}


if __name__ == "__main__":
    main()
