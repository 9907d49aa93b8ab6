"""What nanochat's code had fixed when a model was trained, which its checkpoints do not say: told from their tensors.

Source: the history of https://github.com/karpathy/nanochat/blob/master/nanochat/gpt.py
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from linnet.arch.config import Config
from linnet.errors import UnsupportedModelError

SOFTCAP = 15.0
"""Of the logits; 20 in the first week of March 2026, which nothing tells. The order of candidates is the same."""


@dataclass(frozen=True)
class Generation:
    """sharpening: a factor of normalised queries, and of keys. gate_scale: of value gates. A short window is 1/`share` of the
    context, rounded up to tiles of `tile` tokens, or down where there are none."""

    theta: float
    sharpening: float
    gate_scale: float
    share: int
    tile: int | None


FIRST = Generation(10_000.0, 1.0, 2.0, share=2, tile=None)
"""October 2025. In January 2026 came mixed inputs of layers, windows, and value embeddings with gates on 32 columns."""
SECOND = Generation(100_000.0, 1.15, 3.0, share=3, tile=128)
"""9 March 2026: gates on 12 columns."""
THIRD = Generation(100_000.0, 1.2, 3.0, share=4, tile=128)
"""14 March 2026: backout and smear; without smear, and with short windows that the checkpoint says, from that summer on."""


def generation_of(config: Config, gates: Collection[int | None]) -> Generation:
    """`gates`: how many columns each layer's value gate reads, None without one."""
    columns = set(gates) - {None}
    if columns not in (set(), {12}, {32}):
        raise UnsupportedModelError(f"{config.where}: value gates on {', '.join(map(str, columns))} columns; nanochat has had 12 and 32")
    if "backout_lambda" in config.tensors:
        return THIRD
    return SECOND if columns == {12} else FIRST


def windows(config: Config, context: int, layers: int, generation: Generation) -> list[int | None]:
    """What each layer sees, itself included: all (L) or a short window (S), by a pattern that repeats; the last layer sees all."""
    pattern = config.text("window_pattern", "L").upper()
    if not pattern or set(pattern) - set("SL"):
        raise config.error("window_pattern", "letters S and L")
    share, tile = generation.share, generation.tile
    short = config.integer("short_seq_len", -(-context // (share * tile)) * tile if tile else context // share) + 1
    last = layers - 1
    return [short if pattern[layer % len(pattern)] == "S" and layer < last and short < context else None for layer in range(layers)]
