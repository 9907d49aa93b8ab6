"""A mixture of experts reads only the experts that its tokens choose: decoding at batch 1, next to a dense model that reads as much.

Both have random weights in Q4_0. The mixture has 8 experts of which 2 are active; the dense model's feed-forward block is as wide
as two experts, so that a token reads the same bytes. The ratio of bytes a second is what the mixture makes of what memory gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from linnet import LLM, SamplingParams
from linnet.bench.cases import Case
from linnet.bench.cost import model_cost
from linnet.load.random_weights import open_random
from linnet.tensors import Q4_0

SHARED: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "dtype": "float16",
}
EXPERTS = {"model_type": "mixtral", "intermediate_size": 3584, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
MODELS = {"mixture": SHARED | EXPERTS, "dense": SHARED | {"model_type": "llama", "intermediate_size": 7168}}
TOKENS, REPEATS = 48, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    threads = parser.parse_args().threads
    rates: dict[str, list[float]] = {name: [] for name in MODELS}
    nbytes: dict[str, float] = {}
    models: dict[str, LLM] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in MODELS.items():
            path = Path(folder) / name
            path.mkdir()
            (path / "config.json").write_text(json.dumps(config))
            checkpoint = open_random(path, Q4_0)
            nbytes[name] = model_cost(checkpoint, "f16").generated_step_bytes(Case(1, 8, TOKENS, (0,), 0))
            models[name] = LLM.from_checkpoint(checkpoint, threads=threads, context=256)
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, speculation="off")
    for _ in range(REPEATS):
        for name, llm in models.items():
            rate = llm.generate([list(range(8))], params)[0].timings.tokens_per_s
            assert rate is not None
            rates[name].append(rate)
            print(f"{name}: {rate:.1f} tokens/s, {rate * nbytes[name] / 1e9:.1f} GB/s")
    speeds = {name: statistics.median(values) * nbytes[name] for name, values in rates.items()}
    figures = {name: {"tokens_per_s": round(statistics.median(rates[name]), 2), "bytes_per_token": round(nbytes[name])} for name in MODELS}
    print(json.dumps({**figures, "ratio_of_bytes_per_s": round(speeds["mixture"] / speeds["dense"], 3)}))


if __name__ == "__main__":
    main()
