"""What a model takes of memory: its weights as they are loaded, the KV cache of so many requests of such a length, and what a step of
them works in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from linnet.arch.spec import Attention, GatedDeltaNet, Mixer, Mlp, ModelSpec, Moe
from linnet.choosing import SHORTEST
from linnet.engine.page_plan import KV_BYTES, cache_budget, cache_bytes
from linnet.errors import ContextLengthError
from linnet.model_options import ModelOptions, longest_context

BATCH_SIZES = (1, 4, 16)

TILE_ROWS = 4
"""Rows that the native op set's kernels take together (csrc/kernels/kernels.h: kMostTokens)."""


@dataclass(frozen=True)
class MemoryNeed:
    """Of `batch_size` requests at once, each of `context` tokens, prompt and answer together.

    kv_cache_bytes: in whole pages, as `LLM(context=..., max_batch=..., kv_dtype=...)` takes them. step_bytes: what the largest step works
    in on the native op set, roughly. total_bytes: of all three. fits: whether it does so here and
    now, unless it is told kv_memory; else fewer requests run at once, or none.
    """

    context: int
    batch_size: int
    kv_dtype: str
    weight_bytes: int
    kv_cache_bytes: int
    step_bytes: int
    total_bytes: int
    fits: bool


def plan_memory(
    spec: ModelSpec, weights: int, contexts: Sequence[int] | None = None, batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[MemoryNeed]:
    """The product of KV cache types, contexts (None: some up to the model's own) and batch sizes.

    weights: bytes of them in memory. Raises ContextLengthError for a context past
    what the model's positions reach.
    """
    longest = int(longest_context(spec))
    beyond = [context for context in contexts or () if context > longest]
    if beyond:
        raise ContextLengthError(f"context is {beyond[0]} and the model was made for {longest}; lower it")
    budget = cache_budget(weights)
    needs = []
    for kv_dtype, context, batch_size in product(KV_BYTES, contexts or usual_contexts(spec.context), batch_sizes):
        cache = cache_bytes(spec, kv_dtype, context, batch_size, ModelOptions.prefill_chunk)
        step = step_bytes(spec, min(ModelOptions.prefill_chunk, batch_size * context), batch_size)
        needs.append(MemoryNeed(context, batch_size, kv_dtype, weights, cache, step, weights + cache + step, cache <= budget))
    return needs


def step_bytes(spec: ModelSpec, rows: int, wanted: int) -> int:
    """Bytes that a step of so many rows works in, `wanted` of which get logits: the values of the widest point of the widest layer, all of
    which are there at once (csrc/ops/tape.h: what stands in one task); beside them what the largest mixture computes for its experts,
    which is kept from step to step (csrc/ops/experts.cc); and the logits."""
    widest = max(max(_mixer_width(layer.mixer), _block_width(layer.mlp, spec.hidden)) for layer in spec.layers)
    per_layer = spec.layers[0].per_layer
    inputs = 0 if per_layer is None else per_layer.width * len(spec.layers)  # of all layers, kept through all of them
    widest = inputs + max(widest, 3 * inputs)  # projected, normalised, and those of the table
    mixtures = (_mixture_width(layer.mlp, spec.hidden, rows) for layer in spec.layers if isinstance(layer.mlp, Moe))
    return 4 * (rows * (2 * spec.hidden + widest) + max(mixtures, default=0) + wanted * spec.vocab_size)


def _mixer_width(attention: Mixer) -> int:
    """Queries and keys as they were projected, normalised and rotated, and values; or as they were projected, convolved and normalised."""
    if isinstance(attention, GatedDeltaNet):
        return 4 * 2 * attention.key_width + 3 * attention.value_width
    if not isinstance(attention, Attention):
        return 3 * attention.width
    query, key = (1 + (norm is not None) + len(attention.ropes) for norm in (attention.query_norm, attention.key_norm))
    return query * attention.query_width + key * attention.key_width + attention.value_width


def _block_width(mlp: Mlp | Moe, hidden: int) -> int:
    """What is projected up, its gate, and their product; of a mixture those of the block that all rows pass, and what the experts gave."""
    if isinstance(mlp, Mlp):
        return (3 if mlp.gated else 2) * mlp.width
    return hidden + (0 if mlp.shared is None else _block_width(mlp.shared, hidden))


def _mixture_width(moe: Moe, hidden: int, rows: int) -> int:
    """For each expert of each row: its input, what is projected up, in place of which the product comes, its gate, and what it gives.
    Rows of an expert fill tiles of TILE_ROWS."""
    chosen = rows * moe.router.active
    places = chosen + (TILE_ROWS - 1) * min(moe.experts, chosen)
    return places * (2 * hidden + (2 if moe.expert.gated else 1) * moe.expert.width)


def usual_contexts(longest: int) -> list[int]:
    """The longest context, and up to three of a quarter of the next."""
    contexts = [longest]
    while len(contexts) < 4 and contexts[0] // 4 >= SHORTEST:
        contexts.insert(0, contexts[0] // 4)
    return contexts
