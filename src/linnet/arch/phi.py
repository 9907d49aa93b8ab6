"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023, Li et al. 2023): attention and a plain feed-forward block side by side on one layer norm,
part of each head rotated, and biases everywhere, also on the output."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    OUTPUT,
    QUERY_KEY_VALUE,
    Row,
    Table,
    biases,
    layer_row,
    split_rows,
)

BLOCK = (
    ATTENTION[0],
    layer_row("attention.output.matrix", "self_attn.dense", "attn_output", "hidden", "attention"),
    layer_row("mlp.up.matrix", "mlp.fc1", "ffn_up", "width", "hidden"),
    layer_row("mlp.down.matrix", "mlp.fc2", "ffn_down", "hidden", "width"),
)
HEAD_NORMS = (
    layer_row("attention.query_norm.weight", "self_attn.q_layernorm", None, "head"),
    layer_row("attention.key_norm.weight", "self_attn.k_layernorm", None, "head"),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(hidden_act="gelu_new")
    if config.format == "hf":
        config.assume(partial_rotary_factor=0.5)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("layer_norm_eps", 1e-5), "layer")
    head_norm = norm if config.flag("qk_layernorm", False) else None
    scale = sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, head_norm, head_norm)
    layer = Layer(attention, Mlp(sizes.width, config.activation(), gated=False), norm, None, parallel=True)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("phi", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    attention = spec.layers[0].attention
    widths = attention.query_width, attention.key_width, attention.value_width
    # Older GGUF files have queries, keys and values in one.
    packed = zip(QUERY_KEY_VALUE, split_rows("blk.{layer}.attn_qkv.weight", widths), strict=True)
    matrices: list[Row] = [replace(row, gguf=(f"{row.gguf}", stored)) for row, stored in packed]
    rows = [*BLOCK, *matrices, *(HEAD_NORMS if attention.query_norm else ()), replace(FINAL_NORM, hf="model.final_layernorm.weight")]
    outer = (EMBEDDING, *rows, *biases(rows), *biases(rows, of="weight"), *biases((OUTPUT,)))
    return Table(outer, ("lm_head.weight",)) if spec.tied else Table((*outer, OUTPUT))
