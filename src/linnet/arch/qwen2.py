"""Qwen 1.5, 2 and 2.5 (Yang et al. 2024): Llama's layer with query, key and value biases; upper layers may have a window."""

from __future__ import annotations

from collections.abc import Callable

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_VALUE, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    spec = qwen_spec(config, "qwen2")
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, (*ATTENTION, *biases(QUERY_KEY_VALUE, True), *GATED_MLP))


def windows(config: Config, layers: int) -> list[int | None]:
    """Each layer's window: by `layer_types`, or from layer `max_window_layers` on; none at all without `use_sliding_window`."""
    if config.format == "gguf":
        return [None] * layers
    window = config.optional_integer("sliding_window", 4096)
    first = config.integer("max_window_layers", 28, low=0)
    sliding = sliding_layers(config, layers, lambda layer: layer >= first)
    if not config.flag("use_sliding_window", False):
        return [None] * layers
    return [window if slides else None for slides in sliding]


def qwen_spec(
    config: Config,
    family: str,
    head_dim: int | None = None,
    query_key_norms: bool = False,
    read_windows: Callable[[Config, int], list[int | None]] = windows,
) -> ModelSpec:
    """Qwen's decoder; `head_dim` is the family's default, None for hidden / heads."""
    sizes = read_sizes(config, head_dim)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    head_norm = norm if query_key_norms else None
    mlp = Mlp(sizes.width, config.activation())

    def layer(window: int | None) -> Layer:
        scale = sizes.head_dim**-0.5
        return Layer(Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, window, head_norm, head_norm), mlp, norm, norm)

    layers = tuple(layer(window) for window in read_windows(config, sizes.layers))
    return ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), layers, norm, config.flag("tie_word_embeddings", False))
