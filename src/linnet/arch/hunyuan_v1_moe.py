"""Hunyuan A13B (Tencent 2025): Hunyuan's attention, and a mixture in every layer, with a block that every token passes."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.hunyuan_v1_dense import HEAD_NORMS, hunyuan_spec
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, Table, biases, standard_table
from linnet.errors import UnsupportedModelError

_ROUTER = "model.layers.{layer}.mlp.gate.wg.weight"


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    dense = hunyuan_spec(config, "hunyuan_v1_moe")
    block = dense.layers[0].mlp
    assert isinstance(block, Mlp)
    if not gguf:
        config.called(num_experts_per_tok="moe_topk")
        for key in ("num_experts", "num_experts_per_tok"):
            config.settle(key)
        _check(config, block.width)
    experts = read_experts(config)
    expert = replace(block, width=config.integer("moe_intermediate_size", block.width))
    shared = replace(block, width=config.integer("shared_expert_intermediate_size", block.width))
    moe = Moe(experts, expert, read_router(config, experts, normalise=True), shared)
    spec = with_experts(dense, moe, [True] * len(dense.layers))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def _check(config: Config, width: int) -> None:
    """Raises UnsupportedModelError for what Hunyuan's own code has options for and transformers' does not."""
    config.ignore(["num_media_embeds"])
    for key, runs in {"moe_intermediate_size": width, "num_shared_expert": 1}.items():
        config.settle(key)
        if config.integer(key, runs) != runs:
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is {config.integer(key)}; only {runs} runs")
    for key in ("use_mixed_mlp_moe", "norm_topk_prob", "use_rotary_pos_emb"):
        if not config.flag(key, True):
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is false; only true runs")
    if config.number("routed_scaling_factor", 1.0) != 1.0:
        raise UnsupportedModelError(f"{config.where}: {config.name('routed_scaling_factor')} is not 1, which this family does not have")


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    rows = moe_rows(spec, shared="shared_mlp")
    rows = tuple(replace(row, hf=_ROUTER) if row.field == "layers.router.matrix" else row for row in rows)
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *HEAD_NORMS, *rows))
