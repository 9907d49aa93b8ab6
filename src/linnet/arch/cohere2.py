"""Command R7B, Command A and Tiny Aya (Cohere 2024-2026): Command-R's block; three layers with a window and rotary
positions for each that sees everything and has none."""

from __future__ import annotations

from linnet.arch.cohere import table
from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import Table

__all__ = ["build", "table"]

ALWAYS = ("use_embedding_sharing", "use_gated_activation", "use_parallel_block")
"""What Cohere's own configurations say of every model."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    for key in ALWAYS:
        if not config.flag(key, True):
            raise config.error(key, "true")
    config.called(sliding_window_pattern="layer_switch", partial_rotary_factor="rotary_pct")
    config.ignore(["use_parallel_embedding"])  # how training divided it
    if not gguf:
        config.assume(logit_scale=0.0625, max_position_embeddings=8192, sliding_window=4096)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, interleaved=True)
    norm, mlp = Norm(config.number("layer_norm_eps", 1e-5), "layer"), Mlp(sizes.width, config.activation())
    window = config.integer("sliding_window")
    period = config.integer("sliding_window_pattern", config.integer("_sliding_window_pattern", 4))

    def layer(slides: bool) -> Layer:
        ropes, ours = ((rope,), window) if slides else ((), None)
        attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, ropes, sizes.head_dim**-0.5, ours)
        return Layer(attention, mlp, norm, None, parallel=True)

    layers = tuple(map(layer, sliding_layers(config, sizes.layers, lambda layer: (layer + 1) % period != 0)))
    tied, output = config.flag("tie_word_embeddings", True), Output(scale=config.number("logit_scale", 1.0))
    spec = ModelSpec("cohere2", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied, output=output)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))
