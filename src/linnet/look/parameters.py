"""How many numbers a model has learned, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from linnet.arch.spec import ModelSpec, Moe
from linnet.load.field import Slot

PARTS = (
    "embedding",
    "attention",
    "recurrence",
    "feed-forward",
    "experts",
    "router",
    "norms",
    "output",
    "per-layer embeddings",
    "mixing factors",
)

# The first name of a field's path, and the part it is of; a norm is one wherever it stands.
_OF = {
    **dict.fromkeys(("embedding", "embedding_projection", "positions", "smear_gate", "smear_scale"), "embedding"),
    "attention": "attention",
    **dict.fromkeys(("delta_net", "convolution"), "recurrence"),
    "mlp": "feed-forward",
    "experts": "experts",
    **dict.fromkeys(("per_layer_embedding", "per_layer_projection", "per_layer_gate"), "per-layer embeddings"),
    **dict.fromkeys(("router", "router_correction", "expert_scale", "shared_gate"), "router"),
    **dict.fromkeys(("output", "output_projection"), "output"),
    **dict.fromkeys(("input_scale", "first_scale", "backout_scale", "output_scale"), "mixing factors"),
}


@dataclass(frozen=True)
class Parameters:
    """total: each counted once, a tied output not again. active: without the experts that a token does not choose. parts: by part,
    those that the model has."""

    total: int
    active: int
    parts: dict[str, int]


def part_of(field: str) -> str:
    """Which of PARTS a field belongs to."""
    if "norm" in field:
        return "norms"
    return "embedding" if field == "attention.value_embedding" else _OF[field.partition(".")[0]]


def count_parameters(spec: ModelSpec, slots: Iterable[Slot]) -> Parameters:
    parts = dict.fromkeys(PARTS, 0)
    idle = 0
    for slot in slots:
        count = prod(slot.field_shape)
        parts[part_of(slot.field)] += count
        if slot.is_stack:
            assert slot.layer is not None
            moe = spec.layers[slot.layer].mlp
            assert isinstance(moe, Moe)
            idle += count // moe.experts * (moe.experts - moe.router.active)
    total = sum(parts.values())
    return Parameters(total, total - idle, {part: count for part, count in parts.items() if count})
