"""How many KV pages there are: what a page takes, how many a sequence holds, and what memory allows."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from linnet.arch.spec import Attention, Mixer, ModelSpec
from linnet.engine.pages import STATE, most_pages
from linnet.errors import OutOfMemoryError
from linnet.machine_memory import available_memory
from linnet.ops.base import KV_DTYPES, PAGE_SIZE

logger = logging.getLogger("linnet.engine")

KV_BYTES = {"f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "f32": 4.0}
"""Bytes of one stored key or value entry, by kv_dtype; with its share of the scale of its block of 32."""
assert set(KV_BYTES) == set(KV_DTYPES)

VALUE_LANES = 16
"""Values of a head are stored in whole vectors of this many entries (csrc/kernels/kernels.h)."""

MEMORY_SHARE = 0.4
"""The part of the available memory that the pool may take when no `kv_memory` is given."""


@dataclass(frozen=True)
class LayerGroups:
    """Layers that see equally far back are a group: they have the pages of a sequence in common, and give them back together.

    windows: how many positions back each group sees, the widest first; None: all; STATE, at last: recurrent layers. of_layer: the group
    of every layer.
    """

    windows: tuple[int | None, ...]
    of_layer: tuple[int, ...]


def layer_groups(spec: ModelSpec, draft: ModelSpec | None = None) -> LayerGroups:
    """The groups of a model's layers. The first keeps every page where a draft model has its own keys and values under the same numbers,
    since that may have to read what it missed; of a prompt that sees both ways nothing is given back."""
    seen = [layer.mixer.window if isinstance(layer.mixer, Attention) else STATE for layer in spec.layers]
    if spec.bidirectional_prompt or not seen:
        return LayerGroups((None,), (0,) * len(seen))
    windows = sorted(set(seen), key=lambda window: (window is not None, -(window or 0)))
    of_layer = tuple(windows.index(window) for window in seen)
    return LayerGroups((None if draft is not None else windows[0], *windows[1:]), of_layer)


def group_bytes(spec: ModelSpec, kv_dtype: str, draft: ModelSpec | None = None) -> list[int]:
    """Bytes of one page of each group, a draft model's among those of the first."""
    groups = layer_groups(spec, draft)
    each = [0] * len(groups.windows)
    each[0] += 0 if draft is None else page_bytes(draft, kv_dtype)
    for index in spec.kv_layers:
        each[groups.of_layer[index]] += _layer_bytes(spec.layers[index].mixer, kv_dtype)
    return each


def page_bytes(spec: ModelSpec, kv_dtype: str) -> int:
    """Bytes of one page in every layer that has keys and values, or a state, of its own."""
    return sum(_layer_bytes(spec.layers[index].mixer, kv_dtype) for index in spec.kv_layers)


def _layer_bytes(attention: Mixer, kv_dtype: str) -> int:
    """Keys and values of PAGE_SIZE positions, the values of a head padded to VALUE_LANES; or a state, in float32."""
    if not isinstance(attention, Attention):
        return 4 * attention.state_size
    padded = -(-attention.value_head_dim // VALUE_LANES) * VALUE_LANES
    if kv_dtype != "q8_0":
        return int(attention.kv_heads * (attention.head_dim + padded) * KV_BYTES[kv_dtype]) * PAGE_SIZE
    blocks = -(-attention.head_dim // 32) + -(-attention.value_head_dim // 32)
    return attention.kv_heads * (attention.head_dim + padded + 2 * blocks) * PAGE_SIZE


def cache_bytes(spec: ModelSpec, kv_dtype: str, context: int, batch: int, prefill_chunk: int, draft: ModelSpec | None = None) -> int:
    """Bytes of all pages that `batch` sequences of `context` tokens come to hold, at most `prefill_chunk` of them in a step."""
    return batch * total_bytes(most_of_sequence(spec, context, prefill_chunk, draft), group_bytes(spec, kv_dtype, draft))


def most_of_sequence(spec: ModelSpec, context: int, prefill_chunk: int, draft: ModelSpec | None = None) -> list[int]:
    """Most pages of each group that a sequence of `context` tokens comes to hold, at most `prefill_chunk` of them in a step."""
    return [most_pages(context, window, prefill_chunk) for window in layer_groups(spec, draft).windows]


def total_bytes(pages: Sequence[int], each: Sequence[int]) -> int:
    return sum(count * nbytes for count, nbytes in zip(pages, each, strict=True))


def shared_out(pages: int, least: Sequence[int], max_batch: int) -> list[int]:
    """As many pages in every group, but in none more than `max_batch` sequences can hold, nor less than one: `least`."""
    return [min(max_batch * one, max(one, pages)) for one in least]


def plan_pages(
    spec: ModelSpec,
    kv_dtype: str,
    context: int | None,
    max_batch: int,
    kv_memory: int | None,
    reserved: int = 0,
    memory: int | None = None,
    draft: ModelSpec | None = None,
    prefill_chunk: int = 512,
) -> tuple[list[int], int]:
    """(pages of each group, context): enough for `max_batch` sequences of `context`, as far as `kv_memory` bytes go (None: 40% of the
    `memory` bytes that are available, besides `reserved` ones; memory: None: what the machine has). Where that is not all, every group
    has as many, so that sequences of some length, the longest for which it can be, run `max_batch` at once. Where no context is asked
    for, it is the model's, or as much of it as one sequence can have. draft: a model whose cache has as many pages as the first group,
    out of the same bytes. prefill_chunk: most rows of a sequence in a step.

    Raises OutOfMemoryError when not even one sequence of the asked-for context fits, or when the memory besides `reserved` has not what
    `kv_memory` allows.
    """
    each = group_bytes(spec, kv_dtype, draft)
    budget = cache_budget(reserved, memory) if kv_memory is None else kv_memory
    least = most_of_sequence(spec, spec.context if context is None else context, prefill_chunk, draft)
    if context is None:
        fitting = bisect_right(range(1, least[0] + 1), budget, key=lambda pages: total_bytes([min(pages, one) for one in least], each))
        context = spec.context if fitting == least[0] else fitting * PAGE_SIZE
        least = [min(max(1, fitting), one) for one in least]
        if 0 < context < spec.context:
            logger.warning("context is %d of the model's %d: that is what %d bytes of KV cache hold", context, spec.context, budget)
    if total_bytes(least, each) > budget:
        whose = "available for it" if kv_memory is None else "allowed by kv_memory"
        raise OutOfMemoryError(
            f"the KV cache of one sequence of {context or PAGE_SIZE} tokens takes {total_bytes(least, each)} bytes and {budget} are "
            f"{whose}; lower context, raise kv_memory or choose a smaller kv_dtype"
        )
    most = range(max_batch * least[0] + 1)
    pages = shared_out(
        bisect_right(most, budget, key=lambda pages: total_bytes(shared_out(pages, least, max_batch), each)) - 1, least, max_batch
    )
    taken = total_bytes(pages, each)
    if kv_memory is not None and taken > (left := (available_memory() if memory is None else memory) - reserved):
        raise OutOfMemoryError(
            f"the KV cache takes {taken} bytes of the {kv_memory} that kv_memory allows, and {max(0, left)} are available beside the "
            f"{reserved} bytes of weights; lower kv_memory, context or max_batch, or choose smaller weights, as q8_0"
        )
    shown = " and ".join(f"{count} pages of {nbytes} bytes" for count, nbytes in zip(pages, each, strict=True))
    logger.info("KV cache: %s (%s), %d in all; context %d", shown, kv_dtype, taken, context)
    return pages, context


def cache_budget(reserved: int, memory: int | None = None) -> int:
    """Bytes that the pool may take where no `kv_memory` is given, of `memory` bytes besides `reserved` ones of weights; memory:
    None: what the machine has available."""
    return max(0, int(((available_memory() if memory is None else memory) - reserved) * MEMORY_SHARE))
