"""EXAONE 4 (LG AI Research 2025): Llama's layer with norms after its blocks in place of before, and normalised queries and keys. The 32B
model has three layers with a window and rotary positions for each that sees everything and has none; in the others all rotate."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.olmo2 import POST_NORMS
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_NORMS, Table, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-5))
    rope, mlp = read_rope(config, sizes.head_dim), Mlp(sizes.width, config.activation())
    window = config.optional_integer("sliding_window", None if config.format == "gguf" else 4096)

    def layer(slides: bool) -> Layer:
        ropes, seen = ((rope,), window) if slides or window is None else ((), None)
        scale = sizes.head_dim**-0.5
        return Layer(Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, ropes, scale, seen, norm, norm), mlp, None, None, norm, norm)

    layers = tuple(map(layer, _sliding(config, sizes.layers)))
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("exaone4", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied)
    return spec, table(spec)


def _sliding(config: Config, layers: int) -> list[bool]:
    """Whether each layer has the window; `layer_types` goes before the pattern: a number, or a text such as LLLG."""
    if config.items("layer_types") is not None or config.optional_integer("sliding_window", 4096) is None:
        config.ignore(["sliding_window_pattern"])
        return sliding_layers(config, layers, lambda layer: False)
    period = config.integer("sliding_window_pattern", 4)
    return sliding_layers(config, layers, lambda layer: (layer + 1) % period != 0)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, (*ATTENTION[1:], *QUERY_KEY_NORMS, *POST_NORMS, *GATED_MLP[1:]))
