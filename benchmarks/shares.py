"""Of what the machine can do, how much an engine took: bytes and multiply-adds that a row cannot do without, over measured peaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import BANDWIDTH, BF16, CTRANSLATE2, F32, Row

from linnet.bench.cases import Case
from linnet.bench.cost import Cost, model_cost
from linnet.bench.machine import Machine
from linnet.load.checkpoint import open_checkpoint

ARITHMETIC = "share of arithmetic peak"

# Engines that have the model in a type of their own: bytes a weight, whether it is multiplied as integers, and type of keys and values.
OWN_TYPES: dict[str, tuple[int, bool, str]] = {CTRANSLATE2: (1, True, "f32"), F32: (4, False, "f32"), BF16: (2, False, "bf16")}


def engine_cost(engine: str, path: Path) -> Cost:
    """What a token costs an engine, of the model whose GGUF file is `path`."""
    weight_bytes, is_integer, kv_dtype = OWN_TYPES.get(engine, (0, False, "f16"))
    checkpoint = open_checkpoint(path)
    try:
        cost = model_cost(checkpoint, kv_dtype)
    finally:
        checkpoint.close()
    if engine not in OWN_TYPES:
        return cost
    weights = cost.layer_multiply_adds + cost.output_multiply_adds
    return replace(cost, step_bytes=weights * weight_bytes, integer_share=float(is_integer))


def shares(row: Row, cost: Cost, tokens_per_s: float, machine: Machine) -> dict[str, Any]:
    """Bandwidth for decoding from memory, arithmetic for prompts and batches; float products are held against the peak of float32."""
    found = {}
    if row.kind == "prompt":
        least = cost.prompt_seconds(row.length, machine)
        found[ARITHMETIC] = None if least is None else round(least * tokens_per_s, 3)
        return found
    if not row.in_caches:
        nbytes = cost.generated_step_bytes(Case(row.batch, row.length, 0, (0,), 0)) / row.batch
        found[BANDWIDTH] = round(nbytes * tokens_per_s / machine.read_bandwidth, 3)
    if row.batch > 1 and machine.integer_peak and machine.float_peak:
        weights = cost.layer_multiply_adds + cost.output_multiply_adds
        least = weights * (cost.integer_share / machine.integer_peak + (1 - cost.integer_share) / machine.float_peak)
        found[ARITHMETIC] = round(least * tokens_per_s, 3)
    return found
