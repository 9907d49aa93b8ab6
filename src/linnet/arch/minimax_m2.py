"""MiniMax M2 (2025): queries and keys normalised whole, part of each head rotated, mixtures of experts that corrected sigmoids choose."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.moe import is_corrected, moe_rows, read_experts, read_router
from linnet.arch.olmo2 import NORMS
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Moe, Norm
from linnet.arch.table import ATTENTION, Table, standard_table
from linnet.errors import UnsupportedModelError

_BLOCK = "model.layers.{layer}.block_sparse_moe"
_CORRECTION = (f"{_BLOCK}.e_score_correction_bias", "model.layers.{layer}.mlp.e_score_correction_bias")


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(head_dim=128, num_key_value_heads=8, rope_theta=5e6)
        config.called(rope_dim="rotary_dim")
        _check(config)
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-6))
    rope, scale = read_rope(config, sizes.head_dim), sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, norm, norm, norm_heads=False)
    experts, width = read_experts(config), config.integer("moe_intermediate_size", sizes.width)
    router = read_router(config, experts, True, "sigmoid", corrected=is_corrected(config))
    layer = Layer(attention, Moe(experts, Mlp(width, config.activation()), router), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("minimax_m2", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec)


def _check(config: Config) -> None:
    """Raises UnsupportedModelError for what the family's own code has options for and no published model uses."""
    for key in ("use_qk_norm", "use_routing_bias"):
        if not config.flag(key, True):
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is false; only true runs")
    if (kind := config.text("qk_norm_type", "per_layer")) != "per_layer":
        raise UnsupportedModelError(f"{config.where}: {config.name('qk_norm_type')} is {kind!r}; only per_layer runs")
    for key in ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"):
        if config.number(key, 1.0) != 1.0:
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is {config.number(key):g}; only 1 runs")
    if any(kind != 1 for kind in config.items("attn_type_list") or []):
        raise UnsupportedModelError(f"{config.where}: {config.name('attn_type_list')} has layers without softmax attention")
    config.ignore(["use_mtp", "num_mtp_modules", "mtp_transformer_layers"])  # of layers that are not published
    config.ignore(["mlp_intermediate_size", "swa_rope_theta"])  # of MiniMax' earlier models


def table(spec: ModelSpec) -> Table:
    """Published experts are w1, w3 and w2: gate, up and down."""
    rows = moe_rows(spec, "block_sparse_moe", ("w1", "w3", "w2"))
    rows = tuple(replace(row, hf=_CORRECTION) if row.field == "layers.router_correction" else row for row in rows)
    return standard_table(spec, (*ATTENTION, *NORMS[:2], *rows))
