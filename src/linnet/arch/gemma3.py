"""Gemma 3 (Gemma Team 2025), its text model, also out of a checkpoint that sees: Gemma 2 without caps, with normalised queries and
keys, and five layers of a window, with a rotary base of their own, for each that sees everything."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.gemma import less_one
from linnet.arch.gemma2 import attention_scale, layer_rows
from linnet.arch.inside import inside, text_config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import read_two_ropes
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import QUERY_KEY_NORMS, Table, standard_table

LAYERS_27B = 62
# What transformers assumes; published configurations leave these out.
DEFAULTS = {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072}


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    config, tied = text_config(config)
    config.assume(hidden_activation="gelu_pytorch_tanh")
    if not gguf:
        config.assume(**DEFAULTS, rope_theta=1_000_000.0)
    sizes = read_sizes(config)
    everywhere, nearby = read_two_ropes(config, sizes.head_dim, nearby=10_000.0)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    mlp = Mlp(sizes.width, config.activation("hidden_activation"))
    scale = attention_scale(config, sizes, LAYERS_27B)
    window = config.optional_integer("sliding_window", None if gguf else 4096)
    period = config.integer("sliding_window_pattern", config.integer("_sliding_window_pattern", 6))

    def layer(slides: bool) -> Layer:
        rope, ours = (nearby, window) if slides else (everywhere, None)
        attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, ours, norm, norm)
        return Layer(attention, mlp, norm, norm, norm, norm)

    sliding = sliding_layers(config, sizes.layers, lambda layer: (layer + 1) % period != 0)
    layers = tuple(layer(slides and not (gguf and window is None)) for slides in sliding)
    embedding, output = Embedding(scale=sizes.hidden**0.5), Output(softcap=config.optional_number("final_logit_softcapping"))
    # The context counts what the rotary scaling stretches it to.
    spec = ModelSpec("gemma3", sizes.vocab, sizes.hidden, everywhere.context, layers, norm, tied, embedding, output)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    made = less_one(standard_table(spec, (*layer_rows(attention_bias), *QUERY_KEY_NORMS)))
    return inside(made)
