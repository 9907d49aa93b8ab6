"""Prompt and generation speed of Linnet and llama.cpp on the same GGUF file, interleaved in one process.

Both engines get the same random prompts, 2 threads, an f16 KV cache, batches of up to 512 tokens, and sample greedily
in native code. Prompt speed is that of a prompt and its first token; generation speed is that of the tokens after the
first one. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from peer import LlamaCpp

from linnet import LLM, SamplingParams

Generate = Callable[[list[int], int], None]  # runs a prompt and that many greedy tokens, end tokens included
REST = 0.05  # seconds between measurements, so that no engine's threads still spin


def linnet_generate(llm: LLM) -> Generate:
    def generate(prompt: list[int], count: int) -> None:
        (answer,) = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True))
        assert len(answer.token_ids) == count

    return generate


def llama_cpp_generate(peer: LlamaCpp) -> Generate:
    def generate(prompt: list[int], count: int) -> None:
        assert len(list(peer.stream(prompt, count))) == count

    return generate


def seconds(generate: Generate, prompt: list[int], count: int) -> float:
    time.sleep(REST)
    start = time.perf_counter()
    generate(prompt, count)
    return time.perf_counter() - start


def measure(
    engines: dict[str, Generate], prompt_length: int, tokens: int, repeats: int, vocabulary: int
) -> dict[str, dict[str, list[float]]]:
    """Tokens per second, by engine, then 'pp' and 'tg', one figure a repeat. The first round only warms up."""
    rng = random.Random(0)
    speeds: dict[str, dict[str, list[float]]] = {name: {"pp": [], "tg": []} for name in engines}
    for repeat in range(repeats + 1):
        prompt = rng.choices(range(vocabulary), k=prompt_length)  # a new one each time: no cached prefix
        first = rng.choices(range(vocabulary), k=1)
        for name, generate in engines.items():
            prompt_speed = prompt_length / seconds(generate, prompt, 1)
            generation_speed = tokens / (seconds(generate, first, tokens + 1) - seconds(generate, first, 1))
            if repeat:
                speeds[name]["pp"].append(prompt_speed)
                speeds[name]["tg"].append(generation_speed)
                print(f"{name:10} {repeat}: prompt {prompt_speed:6.1f}  generation {generation_speed:5.1f} tokens/s", flush=True)
    return speeds


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file, for example of make_model.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    context = max(arguments.prompt, arguments.tokens) + 64
    peer = LlamaCpp(arguments.model, arguments.threads, context)
    with LLM(str(arguments.model), ops="native", threads=arguments.threads, context=context) as llm:
        engines = {"linnet": linnet_generate(llm), "llama.cpp": llama_cpp_generate(peer)}
        speeds = measure(engines, arguments.prompt, arguments.tokens, arguments.repeats, llm.spec.vocab_size)
    figures: dict[str, object] = {"model": arguments.model.name, "threads": arguments.threads, "processor": processor()}
    figures["llama_cpp"] = peer.system_info
    for case, label in (("pp", f"pp{arguments.prompt}"), ("tg", "tg1")):
        ours, theirs = median(speeds["linnet"][case]), median(speeds["llama.cpp"][case])
        figures[label] = {"linnet": round(ours, 1), "llama_cpp": round(theirs, 1), "ratio": round(ours / theirs, 3)}
        print(f"{label}: Linnet {ours:.1f}, llama.cpp {theirs:.1f} tokens/s, ratio {ours / theirs:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
