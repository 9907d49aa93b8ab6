"""ERNIE 4.5 with mixtures (Baidu 2025): experts scored by a softmax, corrected for choosing, with blocks that every token passes."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.moe import is_corrected, moe_rows, read_experts, read_router, read_shared, with_experts
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, Stored, Table, standard_table
from linnet.errors import UnsupportedModelError

_NAMES = {
    "num_experts": "moe_num_experts",
    "num_experts_per_tok": "moe_k",
    "n_shared_experts": "moe_num_shared_experts",
    "first_k_dense_replace": "moe_layer_start_index",
}


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=True, num_key_value_heads=4)
        config.called(**_NAMES)
        _check(config)
    dense = llama_spec(config, "ernie4_5_moe", None, interleaved=True)
    experts, width = read_experts(config), config.integer("moe_intermediate_size")
    shared = read_shared(config, width)
    if gguf and (own := config.integer("shared_expert_intermediate_size", 0, low=0)):
        shared = Mlp(own, config.activation())
    router = read_router(config, experts, normalise=True, corrected=is_corrected(config))
    spec = with_experts(dense, Moe(experts, Mlp(width, config.activation()), router, shared), _sparse(config, len(dense.layers)))
    return spec, table(spec)


def _check(config: Config) -> None:
    """Raises UnsupportedModelError for what the family's own code has options for and no published model uses."""
    for key, runs in {"use_bias": False, "use_rmsnorm": True}.items():
        if config.flag(key, runs) != runs:
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is {str(not runs).lower()}; only {str(runs).lower()} runs")
    if config.number("moe_norm_min", 1e-12) > 1e-6:
        raise UnsupportedModelError(f"{config.where}: {config.name('moe_norm_min')} is so large that weights would not sum to 1")
    config.ignore(["moe_capacity", "moe_use_aux_free"])  # of training


def _sparse(config: Config, layers: int) -> list[bool]:
    """Which layers are mixtures: every `moe_layer_interval`th, counted from 1, of those from a first to a last."""
    first, step = config.integer("first_k_dense_replace", 1, low=0), config.integer("moe_layer_interval", 1)
    last = config.integer("moe_layer_end_index", -1, low=-1)
    return [first <= layer and (last < 0 or layer <= last) and (layer + 1) % step == 0 for layer in range(layers)]


def table(spec: ModelSpec) -> Table:
    """The corrections are stored as a matrix of one row. Layers that predict further tokens, which have names of their own, are left
    out."""
    moe = next((layer.mlp for layer in spec.layers if isinstance(layer.mlp, Moe)), None)
    rows = moe_rows(spec)
    if moe is not None:
        names = [f"model.layers.{{layer}}.mlp.{inner}moe_statics.e_score_correction_bias" for inner in ("", "gate.")]
        stored = tuple(Stored(name, shape=(1, moe.experts)) for name in names)  # the second as transformers has it in memory
        rows = tuple(replace(row, hf=stored) if row.field == "layers.router_correction" else row for row in rows)
    return standard_table(spec, (*ATTENTION, *rows), ignored=("model.mtp_*",))
