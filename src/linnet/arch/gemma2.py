"""Gemma 2 (Gemma Team 2024): Gemma with norms also after each block, every other layer with a window, and soft caps on scores and
logits."""

from __future__ import annotations

import math

from linnet.arch.config import Config
from linnet.arch.gemma import less_one
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import Sizes, read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import ATTENTION, GATED_MLP, Row, Table, biases, layer_row, standard_table

LAYERS_27B = 46
NORMS = (
    layer_row("attention_post_norm.weight", "post_attention_layernorm", "post_attention_norm", "hidden"),
    layer_row("mlp_norm.weight", "pre_feedforward_layernorm", "ffn_norm", "hidden"),
    layer_row("mlp_post_norm.weight", "post_feedforward_layernorm", "post_ffw_norm", "hidden"),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    config.assume(hidden_activation="gelu_pytorch_tanh")
    if not gguf:
        config.assume(num_key_value_heads=4, head_dim=256)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    mlp = Mlp(sizes.width, config.activation("hidden_activation"))
    scale = attention_scale(config, sizes, LAYERS_27B)
    softcap = config.optional_number("attn_logit_softcapping", 50.0)
    window = config.optional_integer("sliding_window", 4096)
    config.ignore(["sliding_window_size"])  # says the same once more
    period = config.integer("sliding_window_pattern", 2) if gguf else 2

    def layer(slides: bool) -> Layer:
        ours = window if slides else None
        attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, ours, softcap=softcap)
        return Layer(attention, mlp, norm, norm, norm, norm)

    layers = tuple(layer(slides) for slides in sliding_layers(config, sizes.layers, lambda layer: (layer + 1) % period != 0))
    tied = config.flag("tie_word_embeddings", True)
    embedding, output = Embedding(scale=sizes.hidden**0.5), Output(softcap=config.optional_number("final_logit_softcapping", 30.0))
    spec = ModelSpec("gemma2", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied, embedding, output)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def attention_scale(config: Config, sizes: Sizes, layers_27b: int) -> float:
    """GGUF does not tell it: the largest model, known by its layers, divides by the root of hidden / heads, the others by that of a
    head's width."""
    if config.format == "gguf":
        return 1 / math.sqrt(sizes.hidden // sizes.heads if sizes.layers == layers_27b else sizes.head_dim)
    return 1 / math.sqrt(config.number("query_pre_attn_scalar", 256.0))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return less_one(standard_table(spec, layer_rows(attention_bias)))


def layer_rows(attention_bias: bool | None) -> tuple[Row, ...]:
    return (*ATTENTION, *biases(ATTENTION, attention_bias), *NORMS, *GATED_MLP[1:])
