"""What a model takes of memory against what was planned: weights and KV cache, for families, cache types and ways to load.

Each case runs in a process of its own: a model of random weights is written, opened, and requests fill every page of its cache. What
Linnet had in memory before is taken off. Ends with a line of JSON; exit code 1 where a case is further off than the plan promises.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROMISED, SMALL = 0.05, 32 * 2**20
"""What a plan may be off by: a share of it, or so many bytes."""

SIZES = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 128000, "tie_word_embeddings": True}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu"},
    "qwen2": {"model_type": "qwen2", "rms_norm_eps": 1e-6, "hidden_act": "silu"},
    "gemma3": {
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 64,
        "sliding_window": 512,
        "sliding_window_pattern": 4,
    },
    "mistral": {"model_type": "mistral", "rms_norm_eps": 1e-5, "hidden_act": "silu", "sliding_window": 512},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "vocab_size": 32000,
        "hidden_size": 1024,
        "num_experts": 32,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "deepseek_v2": {
        "model_type": "deepseek_v2",
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "n_routed_experts": 16,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 704,
        "first_k_dense_replace": 1,
    },
}
CONTEXT, BATCH = 2048, 2
WAYS: list[dict[str, Any]] = [{"weights": "auto"}, {"weights": "q4_0"}, {"weights": "q8_0"}, {"low_memory": True}]


def write_model(folder: Path, family: str) -> None:
    """Random float16 weights and a config.json that transformers would write."""
    from safetensors.numpy import save_file

    from linnet.load.dequantize import dequantize
    from linnet.load.random_weights import open_random

    config = {**SIZES, **HEADS, **CONFIGS[family], "max_position_embeddings": CONTEXT, "rope_theta": 10000.0, "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    source = open_random(folder).source
    save_file({name: dequantize(source.read(name)).astype("float16") for name in source.names()}, folder / "model.safetensors")


def measure(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Planned and measured bytes of one case, in this process."""
    from linnet import LLM, SamplingParams, inspect_model
    from linnet.bench.machine import peak_memory, reset_peak_memory
    from linnet.memory import clear_memory_cache, memory_usage

    with LLM("tiny") as llm:  # what any model needs is in memory then
        llm.generate("Hello", SamplingParams(max_tokens=2))
    [need] = (
        need
        for need in inspect_model(folder, weights=options.get("weights", "auto"), contexts=[CONTEXT], batch_sizes=[BATCH]).memory
        if need.kv_dtype == options["kv_dtype"]
    )
    clear_memory_cache()
    before = memory_usage()
    reset_peak_memory()
    with LLM(folder, context=CONTEXT, max_batch=BATCH, kv_memory=need.kv_cache_bytes, **options) as llm:
        opened = memory_usage()
        prompts = [[(7 * number + place) % 31000 for place in range(CONTEXT - 1)] for number in range(BATCH)]
        for handle in [llm.submit(prompt, SamplingParams(max_tokens=1, temperature=0.0)) for prompt in prompts]:
            handle.result()
        taken, peak = memory_usage() - before, (peak_memory() or before) - before
    return {
        "planned": need.total_bytes,
        "weights": need.weight_bytes,
        "kv_cache": need.kv_cache_bytes,
        "step": need.step_bytes,
        "opened": opened - before,
        "taken": taken,
        "peak": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--kv-dtypes", nargs="*", default=["f16", "q8_0", "f32"])
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], json.loads(arguments.case[1]))))
        return
    results, kept = [], True
    for family in arguments.families:
        with TemporaryDirectory() as name:
            write_model(Path(name), family)
            for way, kv_dtype in product(WAYS, arguments.kv_dtypes):
                options = {**way, "kv_dtype": kv_dtype}
                command = [sys.executable, __file__, "--case", name, json.dumps(options)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                off = found["taken"] - found["planned"]
                kept &= abs(off) <= max(PROMISED * found["planned"], SMALL)
                results.append({"family": family, **options, **found, "off": off / found["planned"]})
                shown = " ".join(f"{key} {value / 1e6:.0f}" for key, value in found.items())
                print(f"{family} {way} {kv_dtype}: {shown} MB, off by {off / found['planned']:+.1%}", flush=True)
    print(json.dumps({"kept": kept, "cases": results}))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
