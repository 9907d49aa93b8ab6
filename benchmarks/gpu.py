"""A GPU, by Linnet and by transformers (static cache, compiled) in one run: random weights in the shape of Llama-3.1-8B, bfloat16.

Decoding of one sequence, of 8, and of 64 whose answers differ in length; a prompt of 4,096 tokens. As shares of what the same device
was just measured to copy and to multiply, and as ratios to transformers. Figures are printed as they come; what fails, or is not begun
in time, is said, and the rest goes on. The last line is JSON. See gpu.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from linnet import LLM, SamplingParams
from linnet.bench.cases import Case
from linnet.bench.cost import Cost, model_cost
from linnet.bench.device import copy_bandwidth, matrix_rate, seconds
from linnet.load.random_weights import open_random
from linnet.ops.torch.matrices import matrix_bytes
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
ENGINES = ("linnet", "linnet-compiled", "transformers")
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
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--limit-s", type=float, default=540.0, help="no case is begun later than this")
    options = parser.parse_args()
    if options.no_compile:
        options.engines = [engine for engine in options.engines if engine != "linnet-compiled"]
    run = Run(torch.device(options.device), options, PLANS[options.shape], SHAPES[options.shape] | {"dtype": "bfloat16"})
    run.figures["copy_gb_s"] = copy_bandwidth(run.device) / 1e9
    run.figures["matrix_tflop_s"] = 2 * matrix_rate(run.device, torch.bfloat16) / 1e12
    say(f"{name_of(run.device)}: copies {run.figures['copy_gb_s']:.0f} GB/s, multiplies {run.figures['matrix_tflop_s']:.1f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        run.folder = folder
        (Path(folder) / "config.json").write_text(json.dumps(run.config))
        for engine in options.engines:
            with run.noting(engine), (peer if engine == "transformers" else linnet)(run, engine) as answer:
                measure(run, engine, answer)
            gc.collect()
            if run.device.type == "cuda":
                torch.cuda.empty_cache()
        with run.noting("found"):
            sized = partial(matrix_bytes, dtype=torch.bfloat16)
            report(run.figures, model_cost(open_random(folder), "bf16", run.target, sized), run.plan)
    print(json.dumps({"benchmark": "gpu", "device": name_of(run.device), "torch": torch.__version__, **vars(options), **run.figures}))
    sys.exit(1 if run.figures["failed"] else 0)


Answer = Callable[[list[list[int]], list[int]], object]
"""Generates after each prompt as many tokens as the list says."""


class Run:
    """What is measured where, and the figures so far; `failed` says what went wrong."""

    folder: str

    def __init__(self, device: torch.device, options: argparse.Namespace, plan: Plan, config: dict[str, Any]) -> None:
        self.device, self.options, self.plan, self.config = device, options, plan, config
        self.target = None if options.weights == "auto" else TYPES[options.weights]
        self.figures: dict[str, Any] = {"failed": {}}
        self.ends = time.monotonic() + options.limit_s

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Goes on after what fails, so that what was measured is not lost."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.figures["failed"][what] = f"{type(error).__name__}: {error}"


def say(line: str) -> None:
    print(line, flush=True)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    return torch.randint(3, vocab, (count, length), generator=torch.Generator().manual_seed(count)).tolist()


def measure(run: Run, engine: str, answer: Answer) -> None:
    """Tokens/s of every case, as far as time goes."""
    plan, vocab = run.plan, run.config["vocab_size"]
    cases = {"batch_1": (1, [plan.tokens]), "prefill": (plan.prompt, [1]), "batch_64": (1, plan.mixed), "batch_8": (1, [plan.tokens] * 8)}
    for name, (count, lengths) in cases.items():
        if time.monotonic() > run.ends:
            run.figures["failed"][f"{engine}, {name}"] = "not begun: --limit-s"
            continue
        with run.noting(f"{engine}, {name}"):
            prefill = name == "prefill"
            asked, began = prompts(len(lengths), count if prefill else PROMPT, vocab), time.monotonic()
            rate = (count if prefill else sum(lengths)) / seconds(run.device, partial(answer, asked, lengths), plan.reps)
            run.figures.setdefault(engine, {})[name] = rate
            say(f"{engine}: {name} {rate:.1f} tokens/s (measured for {time.monotonic() - began:.0f} s)")


@contextmanager
def linnet(run: Run, engine: str) -> Iterator[Answer]:
    settings: dict[str, Any] = {"ops": "torch", "device": run.options.device, "dtype": "bf16", "kv_dtype": "bf16", "max_batch": 64}
    settings |= {"prefix_cache": False, "prefill_chunk": run.plan.prompt, "context": run.plan.prompt + 256}
    began = time.monotonic()
    with LLM.from_checkpoint(open_random(run.folder, run.target), compile=engine == "linnet-compiled", **settings) as llm:
        say(f"{engine}: loaded in {time.monotonic() - began:.0f} s")

        def answer(asked: list[list[int]], lengths: list[int]) -> None:
            greedy = [SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True) for length in lengths]
            handles = [llm.submit(prompt, params) for prompt, params in zip(asked, greedy, strict=True)]
            for handle in handles:
                handle.result()

        yield answer


@contextmanager
def peer(run: Run, engine: str) -> Iterator[Answer]:
    """transformers' `generate` with a static cache, which compiles decoding by itself; sequences of several lengths are one batch, as long
    as the longest."""
    import transformers

    library: Any = transformers
    run.figures["transformers_version"] = library.__version__
    with torch.device(run.device):
        model = library.AutoModelForCausalLM.from_config(library.AutoConfig.from_pretrained(run.folder), dtype=torch.bfloat16).eval()
    say(f"{engine}: loaded")

    @torch.inference_mode()
    def answer(asked: list[list[int]], lengths: list[int]) -> None:
        tokens = torch.tensor(asked, device=run.device)
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max(lengths),
            min_new_tokens=max(lengths),
            do_sample=False,
            cache_implementation="static",
            disable_compile=run.options.no_compile,
            pad_token_id=0,
        )

    yield answer


def report(figures: dict[str, Any], cost: Cost, plan: Plan) -> None:
    """What the figures come to, of the better of Linnet's two ways."""
    found: dict[str, float] = {}
    ours, theirs = [figures.get(engine, {}) for engine in ENGINES[:2]], figures.get("transformers", {})
    best = {case: max(each.get(case, 0.0) for each in ours) for case in {case for each in ours for case in each}}
    if "batch_1" in best:
        read = cost.generated_step_bytes(Case(1, PROMPT, plan.tokens, (0,), 0))
        found["share of copy, batch 1"] = read * best["batch_1"] / 1e9 / figures["copy_gb_s"]
    if "prefill" in best:
        done = 2 * cost.prompt_multiply_adds(plan.prompt)
        found["share of matrix rate"] = done * best["prefill"] / 1e12 / figures["matrix_tflop_s"]
    found |= {f"ratio, {case.replace('_', ' ')}": best[case] / theirs[case] for case in sorted(best.keys() & theirs.keys())}
    for name, value in found.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f", at least {target}: {'met' if value >= target else 'not met'}"
        say(f"{name}: {value:.3f}{verdict}")
    figures["found"] = found


if __name__ == "__main__":
    main()
