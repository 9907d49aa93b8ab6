"""Chooses, by what the machine has, the options that the caller left open: the device, and a weight type that fits in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from linnet.engine.page_plan import cache_budget, cache_bytes
from linnet.errors import OutOfMemoryError
from linnet.load.checkpoint import Checkpoint
from linnet.load.weight_bytes import bytes_of
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.op_set import torch_bytes
from linnet.ops.torch.devices import accelerators, dtype_of, free_memory, open_device, usual_device
from linnet.ops.torch.placement import WEIGHT_SHARE

logger = logging.getLogger("linnet.llm")

WEIGHTS = ("auto", "q8_0", "q4_0")
"""Weight types in the order in which they are tried: as stored, then eight bits, then four."""

SHORTEST = 512
"""The smallest context that is acceptable when the caller asks for none, unless the model's own is smaller still."""

SMALL = 2**28
"""Bytes of weights below which no GPU is used: the processor reads them in the time that launching a step's kernels takes."""


@dataclass(frozen=True)
class Place:
    """Where a model may run. device: as the option of `LLM`; None: the native op set. memory: bytes that can be taken there."""

    device: str | None
    memory: int

    def weight_bytes(self, checkpoint: Checkpoint, options: ModelOptions, weights: str) -> int:
        """Bytes that the weights take here."""
        target = replace(options, weights=weights).target
        if self.device is None:
            return bytes_of(checkpoint, target)
        layers, outside, _ = torch_bytes(checkpoint, target, dtype_of(open_device(self.device), options.dtype))
        return sum(layers) + outside

    def holds(self, checkpoint: Checkpoint, options: ModelOptions, nbytes: int, draft: Checkpoint | None = None) -> bool:
        """Whether `nbytes` of weights (a draft model's included) fit beside the KV cache: if `kv_memory` is given, beside all of it; else
        beside the keys and values of one request of the context that was asked for, or of SHORTEST."""
        room = self.memory if self.device in (None, "cpu") else int(self.memory * WEIGHT_SHARE)
        if options.kv_memory is None:
            return nbytes <= room and least_cache(checkpoint, options, draft) <= cache_budget(nbytes, self.memory)
        here = options if self.device is None else replace(options, device=self.device)
        return nbytes <= room and nbytes + least_cache(checkpoint, here, draft) <= self.memory


def least_cache(checkpoint: Checkpoint, options: ModelOptions, draft: Checkpoint | None = None) -> int:
    """Bytes of the smallest KV cache that a model is opened with: one request's, or with `kv_memory` all that requests can hold."""
    spec, guessing = checkpoint.spec, None if draft is None else draft.spec
    if options.kv_memory is not None:
        context = options.context or spec.context
        return min(options.kv_memory, cache_bytes(spec, options.kv_type, context, options.batch, options.prefill_chunk, guessing))
    context = options.context or min(SHORTEST, spec.context)
    return cache_bytes(spec, options.kv_type, context, 1, options.prefill_chunk, guessing)


def choose(checkpoint: Checkpoint, options: ModelOptions, draft: Checkpoint | None = None) -> ModelOptions:
    """The options, with a device and a weight type in place of those that were left open. draft: a draft model, which has to fit beside
    the model, with its weights as stored.

    Weights stay as stored if they fit anywhere, preferably on a GPU; if not, they become q8_0, or else q4_0. Raises OutOfMemoryError if
    nothing fits.
    """
    if options.op_set == "reference" or options.tp > 1 or options.low_memory or options.offload is not None:
        return options
    found = list(places(checkpoint, options))
    tried: list[tuple[int, str]] = []
    for weights in WEIGHTS if options.weights == "auto" else (options.weights,):
        for place in found:
            nbytes = place.weight_bytes(checkpoint, options, weights)
            drafts = 0 if draft is None else place.weight_bytes(draft, options, "auto")
            if place.holds(checkpoint, options, nbytes + drafts, draft):
                _tell(checkpoint, options, place, weights, nbytes, tried)
                device = options.device if place.device is None else place.device
                return replace(options, device=device, weights=weights)
            beside = "" if draft is None else f" beside {drafts} of its draft model"
            where = f"on {place.device or 'cpu'}, where {place.memory} can be taken{beside}"
            tried.append((nbytes, f"{nbytes} bytes {_said(weights)} {where}"))
    needed, cache = min(tried)[1], least_cache(checkpoint, options, draft)
    others = "" if options.weights == "auto" else "choose smaller weights, as q4_0, or "
    others += "" if options.kv_memory is None else "lower kv_memory, "
    raise OutOfMemoryError(
        f"{checkpoint.name}: its weights take {needed}, and the KV cache at least {cache} bytes besides; {others}choose a smaller model or "
        "context, or free memory"
    )


def places(checkpoint: Checkpoint, options: ModelOptions) -> Iterator[Place]:
    """The places that the options allow, the best first: GPUs by their free memory, then the processor."""
    if options.op_set == "torch":
        name = options.device or usual_device()
        memory = free_memory(open_device(name))
        yield Place(name, available_memory() if memory is None else memory)
        return
    free = options.ops == "auto" and options.device is None and options.threads is None and options.prefill_threads is None
    if free and bytes_of(checkpoint, None) >= SMALL:
        found = [(memory, name) for name in accelerators() if (memory := free_memory(open_device(name))) is not None]
        yield from (Place(name, memory) for memory, name in sorted(found, reverse=True))
    yield Place(None, available_memory())


def _tell(checkpoint: Checkpoint, options: ModelOptions, place: Place, weights: str, nbytes: int, tried: list[tuple[int, str]]) -> None:
    if weights != options.weights:
        message = "%s: weights are loaded as %s, %d bytes: they would take %s; weights='stored' (--weights stored) keeps them as they are"
        logger.warning(message, checkpoint.name, weights, nbytes, tried[0][1])
    if options.device is None and place.device not in (None, "cpu"):
        logger.info("%s: runs on %s, which holds its %d bytes of weights; device='cpu' overrides", checkpoint.name, place.device, nbytes)


def _said(weights: str) -> str:
    return "as stored" if weights in ("auto", "stored") else f"as {weights}"
