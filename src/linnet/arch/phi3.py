"""Phi 3, 3.5 and 4 (Abdin et al. 2024): Llama's layer with queries, keys and values in one matrix and gate and up in another.

Those for long contexts have LongRoPE (Ding et al. 2024), Phi 3 mini has a window, Phi 4 mini rotates part of each head.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_VALUE, Row, Table, split_rows, standard_table
from linnet.errors import UnsupportedModelError


def build(config: Config) -> tuple[ModelSpec, Table]:
    for key in ("full_attn_mod", "interpolate_factor"):  # what Phi 4 mini says of features that it does not use
        if config.integer(key, 1) != 1:
            raise UnsupportedModelError(f"{config.where}: only a {config.name(key)} of 1 runs")
    config.ignore(["original_max_position_embeddings"])  # also where nothing is scaled
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-5))
    window = config.optional_integer("sliding_window")
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5, window)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("phi3", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    attention, mlp = spec.layers[0].attention, spec.layers[0].mlp
    assert isinstance(mlp, Mlp)
    widths = attention.query_width, attention.key_width, attention.value_width
    query_key_value = _packed(QUERY_KEY_VALUE, widths, "self_attn.qkv_proj", "attn_qkv")
    gate_up = _packed(GATED_MLP[1:3], (mlp.width, mlp.width), "mlp.gate_up_proj", "ffn_up")
    made = standard_table(spec, (ATTENTION[0], *query_key_value, ATTENTION[-1], GATED_MLP[0], *gate_up, GATED_MLP[-1]))
    return replace(made, ignored=(*made.ignored, "rope_factors_*.weight"))


def _packed(rows: tuple[Row, ...], widths: tuple[int, ...], hf: str, gguf: str) -> list[Row]:
    """The rows of fields that one tensor holds one after another."""
    parts = zip(split_rows(f"model.layers.{{layer}}.{hf}.weight", widths), split_rows(f"blk.{{layer}}.{gguf}.weight", widths), strict=True)
    return [replace(row, hf=theirs, gguf=ggufs) for row, (theirs, ggufs) in zip(rows, parts, strict=True)]
