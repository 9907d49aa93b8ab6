"""Which layers' weights lie on the device, and which in host memory. Needs no PyTorch: it is planned before anything is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from linnet.errors import InvalidRequestError, OutOfMemoryError

logger = logging.getLogger("linnet.ops")

WEIGHT_SHARE = 0.85
"""The part of a device's free memory that weights may take before layers leave it; the rest is for keys, values and activations."""


@dataclass(frozen=True)
class Placement:
    """layers: those whose matrices stay in host memory, the last ones. on_device, on_host: bytes of weights."""

    layers: range
    on_device: int
    on_host: int


def place(layers: Sequence[int], outside: int, largest: int, asked: int | None, memory: int | None, kv_memory: int | None) -> Placement:
    """What goes where. layers: bytes of the matrices of each; outside: of all else; largest: of the largest matrix of a layer, for which
    there must be room while it is visiting. asked: how many layers are to stay in host memory; None: as few as the device's `memory`
    bytes allow (None: not known; all fit), beside `kv_memory` bytes of cache.

    Raises InvalidRequestError for more layers than there are, OutOfMemoryError where what is no layer's is too large by itself.
    """
    count, total = len(layers), sum(layers)
    if asked is not None:
        if asked > count:
            raise InvalidRequestError(f"offload is {asked}, and the model has {count} layers; choose up to so many")
        held = sum(layers[count - asked :])
        return Placement(range(count - asked, count), outside + total - held, held)
    if memory is None:
        return Placement(range(count, count), outside + total, 0)
    room = int(memory * WEIGHT_SHARE) if kv_memory is None else memory - kv_memory
    held, first = 0, count
    while first and outside + total - held + (largest if held else 0) > room:
        first -= 1
        held += layers[first]
    needed = outside + total - held + (largest if held else 0)
    if needed > room:
        raise OutOfMemoryError(
            f"the weights take {outside + total} bytes, and {needed} of them must lie on the device, which has room for {max(0, room)}; "
            "choose smaller weights, as q4_0, or device='cpu'"
        )
    if held:
        logger.warning(
            "the device has room for %d of the %d bytes of weights: layers %d to %d stay in host memory and are brought over at each step, "
            "which is slower; smaller weights, as q8_0 or q4_0, might fit",
            room,
            outside + total,
            first,
            count - 1,
        )
    return Placement(range(first, count), outside + total - held, held)
