"""Seed-OSS (ByteDance 2025): Llama's layer with biases of queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_VALUE, Table, biases, standard_table

MLP_NORM = replace(GATED_MLP[0], gguf="blk.{layer}.post_attention_norm.weight")


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "hf":
        for key, usual in (("num_key_value_heads", 8), ("head_dim", 128)):
            config.assume(**{key: config.optional_integer(key, usual)})
    sizes = read_sizes(config)
    rope, norm = read_rope(config, sizes.head_dim), Norm(config.number("rms_norm_eps", 1e-6))
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("seed_oss", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    if config.format == "gguf":
        return spec, table(spec)
    out_bias, mlp_bias = config.flag("attention_out_bias", False), config.flag("mlp_bias", False)
    return spec, table(spec, config.flag("attention_bias", True), out_bias, mlp_bias)


def table(spec: ModelSpec, attention_bias: bool | None = None, out_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on queries, keys and values, on attention's output and on the feed-forward block: there, not there, or (None) as the
    checkpoint has them."""
    added = (*biases(QUERY_KEY_VALUE, attention_bias), *biases(ATTENTION[4:], out_bias), *biases(GATED_MLP, mlp_bias))
    return standard_table(spec, (*ATTENTION, MLP_NORM, *GATED_MLP[1:], *added))
