"""`recommend`: the device, weight type, context and batch that suit a model on this machine, what they give, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linnet.bench.cases import Case
from linnet.bench.cost import model_cost
from linnet.choosing import SHORTEST, SMALL, WEIGHTS
from linnet.engine.page_plan import cache_bytes, most_of_sequence, plan_pages
from linnet.errors import OutOfMemoryError
from linnet.hardware.gpus import device_bandwidth
from linnet.hardware.report import HardwareInfo, hardware_info
from linnet.hardware.shapes import is_size, of_size
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.weight_bytes import bytes_of
from linnet.look.phrases import size
from linnet.model_options import GPU_BATCH, PROCESSOR_BATCH, ModelOptions
from linnet.op_set import torch_bytes
from linnet.ops.torch.devices import import_torch
from linnet.tensors import BF16, TYPES

FAST = 20.0
"""Tokens a second from which on weights are left as they are: some times faster than people read."""

_INPUT, _OUTPUT = 512, 128
"""The request whose speed is told, as `linnet bench` measures unasked."""
_KV = "f16"
_NO_GPU = "device cpu: no GPU that PyTorch finds here holds the whole model"


@dataclass(frozen=True)
class Recommendation:
    """How to open a model here: `LLM(model, **recommendation.options)`.

    tokens_per_s: generated for one request of 512 tokens and 128 of an answer, as far as reading memory allows; None where the
    device's speed was not measured. total_bytes: weights, and the KV cache of `batch` requests of `context` tokens each.
    """

    model: str
    device: str
    weights: str
    context: int
    batch: int
    tokens_per_s: float | None
    weight_bytes: int
    kv_cache_bytes: int
    total_bytes: int
    options: dict[str, Any]
    reasons: list[str]

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


def recommend(model: str | Path, hardware: HardwareInfo | None = None) -> Recommendation:
    """model: as in `LLM`, or a size, such as "llm:7b". hardware: the machine (None: this one, measured). No weight is read.

    A GPU is preferred to the processor where all of the weights fit; weights are left as they are stored where that gives FAST tokens a
    second, else made smaller. Raises ModelFileError for a model that is not there, InvalidRequestError for a size that is none, and
    OutOfMemoryError where nothing fits.
    """
    checkpoint = of_size(str(model)) if is_size(str(model)) else open_checkpoint(model)
    try:
        hardware = hardware_info() if hardware is None else hardware
        on_gpus = list(_on_gpus(checkpoint, hardware))
        if on_gpus:
            return max(on_gpus, key=lambda found: (found.batch * found.context, found.tokens_per_s or 0.0))
        return _on_processor(checkpoint, hardware)
    finally:
        checkpoint.close()


def _on_gpus(checkpoint: Checkpoint, hardware: HardwareInfo) -> Iterator[Recommendation]:
    """One for each GPU that the whole model fits in, unless a processor is as quick. Floats have 16 bits there."""
    gpus = [gpu for gpu in hardware.gpus if gpu.device is not None and gpu.free_bytes is not None]
    if not gpus or bytes_of(checkpoint, None) < SMALL:
        return
    layers, outside, _ = torch_bytes(checkpoint, None, import_torch().bfloat16)
    nbytes = sum(layers) + outside
    for gpu in gpus:
        assert gpu.device is not None
        assert gpu.free_bytes is not None
        reasons = [f"device {gpu.device}: {gpu.name} has {size(gpu.free_bytes)} free, and the weights take {size(nbytes)} there"]
        found = _fitted(checkpoint, "auto", nbytes, gpu.free_bytes, device_bandwidth(gpu.device), {"device": gpu.device}, reasons)
        if found is not None:
            yield found


def _on_processor(checkpoint: Checkpoint, hardware: HardwareInfo) -> Recommendation:
    available, bandwidth = hardware.available_bytes, hardware.read_bandwidth
    sizes: dict[str, int] = {}
    found: list[Recommendation] = []
    rejected: list[str] = []
    why = "device cpu: no GPU was found"
    if hardware.gpus:
        small = bytes_of(checkpoint, None) < SMALL
        why = f"device cpu: models of less than {size(SMALL)} are as quick there" if small else _NO_GPU
    for weights in WEIGHTS:
        nbytes = bytes_of(checkpoint, TYPES.get(weights))
        if sizes and nbytes >= min(sizes.values()):
            continue  # weights that are stored smaller than that
        sizes[weights] = nbytes
        reasons = [why, *rejected, f"weights {_said(weights)}: {size(nbytes)} of the {size(available)} that can be taken now"]
        fitted = _fitted(checkpoint, weights, nbytes, available, bandwidth, {"weights": weights}, reasons)
        if fitted is None:
            rejected.append(f"not {_said(weights)}: {size(nbytes)} and a KV cache do not fit in {size(available)}")
            continue
        rejected.append(f"not {_said(weights)}: {fitted.tokens_per_s or 0.0:.3g} tokens/s at most, and smaller weights are read faster")
        found.append(fitted)
        if bandwidth is None or (fitted.tokens_per_s or 0.0) >= FAST:
            break
    if not found:
        least = min(sizes, key=lambda weights: sizes[weights])
        kind = "as stored" if least == "auto" else f"as {least}"
        raise OutOfMemoryError(
            f"{checkpoint.name}: its weights take {size(sizes[least])} {kind} and a KV cache besides, and {size(available)} can be taken "
            "now; choose a smaller model, or free memory"
        )
    return found[-1]


def _said(weights: str) -> str:
    return "as stored" if weights == "auto" else weights


def _fitted(
    checkpoint: Checkpoint, weights: str, nbytes: int, memory: int, bandwidth: float | None, options: dict[str, Any], reasons: list[str]
) -> Recommendation | None:
    """With the context and batch that `memory` bytes hold besides `nbytes` of weights; None where that is less than a useful context."""
    spec, most = checkpoint.spec, GPU_BATCH if "device" in options else PROCESSOR_BATCH
    try:
        pages, context = plan_pages(spec, _KV, None, most, None, nbytes, memory)
    except OutOfMemoryError:
        return None
    if context < min(SHORTEST, spec.context):
        return None
    needed = most_of_sequence(spec, context, ModelOptions.prefill_chunk)
    batch = max(1, min(most, *(count // one for count, one in zip(pages, needed, strict=True))))
    request = cache_bytes(spec, _KV, context, 1, ModelOptions.prefill_chunk)
    cache = batch * request
    made_for = "all that the model was made for" if context == spec.context else f"of {spec.context} that the model was made for"
    reasons = [
        *reasons,
        f"context {context}: {made_for}; the KV cache ({_KV}) of a request of that length takes {size(request)}",
        f"batch {batch}: so many requests of the whole context fit; up to {most} run at once where they are shorter",
    ]
    speed = None
    if bandwidth is not None:
        on_gpu = "device" in options
        cost = model_cost(checkpoint, _KV, BF16 if on_gpu else None if weights == "auto" else TYPES[weights])
        step = cost.generated_step_bytes(Case(1, *_request(context), (), 0))
        speed = bandwidth / step
        reasons.append(
            f"{speed:.3g} tokens/s at most: a token of one request reads {size(step)} of weights, keys and values, "
            f"and memory was measured to give {size(bandwidth)} a second"
        )
    options = {**options, "context": context, "kv_memory": max(cache, 1)}
    device = options.get("device", "cpu")
    return Recommendation(checkpoint.name, device, weights, context, batch, speed, nbytes, cache, nbytes + cache, options, reasons)


def _request(context: int) -> tuple[int, int]:
    """Lengths of prompt and answer, in a context that may be short of the usual ones."""
    return (_INPUT, _OUTPUT) if context >= _INPUT + _OUTPUT else (context - context // 5, context // 5)
