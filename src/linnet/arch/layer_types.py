"""Models whose layers differ: `layer_types` and the patterns that stand for it."""

from __future__ import annotations

from collections.abc import Callable

from linnet.arch.config import Config


def sliding_layers(config: Config, layers: int, otherwise: Callable[[int], bool]) -> list[bool]:
    """Whether each layer sees a window only: as `layer_types` says, or by its number where the configuration has none."""
    types = config.items("layer_types")
    if types is None:
        return [otherwise(layer) for layer in range(layers)]
    if len(types) != layers or not all(type in ("full_attention", "sliding_attention") for type in types):
        raise config.error("layer_types", f"{layers} times full_attention or sliding_attention")
    return [type == "sliding_attention" for type in types]


def of_layer(config: Config, index: int, key: str, default: int) -> int:
    """What `per_layer_config` says of one layer; else `default`, which goes for the whole model."""
    groups = config.group("per_layer_config")
    own = None if groups is None else groups.group(str(index))
    return default if own is None else own.integer(key, default)
