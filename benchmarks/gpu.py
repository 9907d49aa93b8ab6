"""A GPU, by Linnet and by transformers (static cache, compiled) in one run: random weights in the shape of Llama-3.1-8B, bfloat16.

Decoding of one sequence, of 8, and of 64 whose answers differ in length; a prompt of 4,096 tokens. As shares of what the same device
was just measured to copy and to multiply, and as ratios to transformers. See gpu.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from linnet import LLM, SamplingParams
from linnet.bench.cases import Case
from linnet.bench.cost import Cost, model_cost
from linnet.load.random_weights import open_random
from linnet.tensors import TYPES

COMMON: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": COMMON
    | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192},
    "small": COMMON
    | {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    | {"intermediate_size": 256, "vocab_size": 512, "max_position_embeddings": 8192},
}
TARGETS = {"share of copy, batch 1": 0.75, "share of matrix rate": 0.55, "ratio, batch 1": 2.0, "ratio, batch 64": 5.0}
PROMPT = 32


@dataclass(frozen=True)
class Plan:
    """Sizes of a run: tokens that batches of 1 and 8 generate, the lengths of 64 answers, the long prompt, how often each is timed."""

    tokens: int
    mixed: list[int]
    prompt: int
    reps: int


PLANS = {"llama-3.1-8b": Plan(256, [32 + 224 * i // 63 for i in range(64)], 4096, 5), "small": Plan(16, [4, 8, 12], 128, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b", help="small is a test of this script")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", choices=["auto", "q8_0", "q4_0"], default="auto", help="Linnet's; transformers has bfloat16")
    parser.add_argument("--no-compile", action="store_true", help="neither engine compiles")
    parser.add_argument("--engines", nargs="+", choices=["linnet", "transformers"], default=["linnet", "transformers"])
    options = parser.parse_args()
    plan, device = PLANS[options.shape], torch.device(options.device)
    config = SHAPES[options.shape] | {"dtype": "bfloat16"}
    figures: dict[str, Any] = {"copy_gb_s": copy_bandwidth(device), "matrix_tflop_s": matrix_rate(device)}
    print(f"{name_of(device)}: copies {figures['copy_gb_s']:.0f} GB/s, multiplies {figures['matrix_tflop_s']:.1f} TFLOP/s in bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        cost = model_cost(open_random(folder), "bf16", None if options.weights == "auto" else TYPES[options.weights])
        for engine in options.engines:
            measure = linnet if engine == "linnet" else peer
            figures[engine] = measure(folder, config, plan, options)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    report(figures, cost, plan)
    about = {"device": name_of(device), "torch": torch.__version__, "transformers_version": transformers.__version__, **vars(options)}
    print(json.dumps({"benchmark": "gpu", **about, **figures}))


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def seconds(device: torch.device, work: Callable[[], object], reps: int = 10) -> float:
    """Median, after two runs that do not count."""
    times = []
    for _ in range(reps + 2):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """GB/s, read and written together."""
    nbytes = 2**30 if device.type == "cuda" else 2**24
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / seconds(device, lambda: target.copy_(source)) / 1e9


def matrix_rate(device: torch.device) -> float:
    """TFLOP/s of a product of two large matrices."""
    size = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / seconds(device, lambda: a @ b) / 1e12


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    return torch.randint(3, vocab, (count, length), generator=torch.Generator().manual_seed(count)).tolist()


def measured(plan: Plan, vocab: int, answer: Callable[[list[list[int]], list[int]], object], device: torch.device) -> dict[str, float]:
    """answer: generates after each prompt as many tokens as the list says."""

    def rate(lengths: list[int]) -> float:
        asked = prompts(len(lengths), PROMPT, vocab)
        return sum(lengths) / seconds(device, lambda: answer(asked, lengths), plan.reps)

    long = prompts(1, plan.prompt, vocab)
    return {
        "batch_1": rate([plan.tokens]),
        "batch_8": rate([plan.tokens] * 8),
        "batch_64": rate(plan.mixed),
        "prefill": plan.prompt / seconds(device, lambda: answer(long, [1]), plan.reps),
    }


def linnet(folder: str, config: dict[str, Any], plan: Plan, options: argparse.Namespace) -> dict[str, float]:
    target = None if options.weights == "auto" else TYPES[options.weights]
    checkpoint = open_random(folder, target)
    settings: dict[str, Any] = {"ops": "torch", "device": options.device, "dtype": "bf16", "kv_dtype": "bf16", "max_batch": 64}
    settings |= {"prefix_cache": False, "prefill_chunk": plan.prompt, "context": plan.prompt + 256, "compile": not options.no_compile}
    with LLM.from_checkpoint(checkpoint, **settings) as llm:

        def answer(asked: list[list[int]], lengths: list[int]) -> None:
            greedy = [SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True) for length in lengths]
            handles = [llm.submit(prompt, params) for prompt, params in zip(asked, greedy, strict=True)]
            for handle in handles:
                handle.result()

        return measured(plan, config["vocab_size"], answer, torch.device(options.device))


def peer(folder: str, config: dict[str, Any], plan: Plan, options: argparse.Namespace) -> dict[str, float]:
    """transformers' `generate` with a static cache; sequences of several lengths are one batch, as long as the longest."""
    device = torch.device(options.device)
    with torch.device(device):
        library: Any = transformers
        model = library.AutoModelForCausalLM.from_config(library.AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).eval()
    if not options.no_compile:
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)

    @torch.inference_mode()
    def answer(asked: list[list[int]], lengths: list[int]) -> None:
        tokens = torch.tensor(asked, device=device)
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max(lengths),
            min_new_tokens=max(lengths),
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
        )

    return measured(plan, config["vocab_size"], answer, device)


def report(figures: dict[str, Any], cost: Cost, plan: Plan) -> None:
    for engine in ("linnet", "transformers"):
        for case, rate in figures.get(engine, {}).items():
            print(f"{engine}: {case} {rate:.1f} tokens/s")
    found: dict[str, float] = {}
    if "linnet" in figures:
        read = cost.generated_step_bytes(Case(1, PROMPT, plan.tokens, (0,), 0))
        found["share of copy, batch 1"] = read * figures["linnet"]["batch_1"] / 1e9 / figures["copy_gb_s"]
        done = 2 * cost.prompt_multiply_adds(plan.prompt)
        found["share of matrix rate"] = done * figures["linnet"]["prefill"] / 1e12 / figures["matrix_tflop_s"]
    if "linnet" in figures and "transformers" in figures:
        for batch in (1, 8, 64):
            found[f"ratio, batch {batch}"] = figures["linnet"][f"batch_{batch}"] / figures["transformers"][f"batch_{batch}"]
        found["ratio, prefill"] = figures["linnet"]["prefill"] / figures["transformers"]["prefill"]
    for name, value in found.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f", at least {target}: {'met' if value >= target else 'not met'}"
        print(f"{name}: {value:.3f}{verdict}")
    figures["found"] = found


if __name__ == "__main__":
    main()
