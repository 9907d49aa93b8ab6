"""Qwen 3 with mixtures of experts (Yang et al. 2025): Qwen 3's attention, and no block that every token passes."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.qwen2 import qwen_spec
from linnet.arch.qwen2_moe import sparse_layers
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, QUERY_KEY_NORMS, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    dense = qwen_spec(config, "qwen3_moe", query_key_norms=True, read_windows=windows)
    experts = read_experts(config)
    router = read_router(config, experts, config.flag("norm_topk_prob", gguf))  # GGUF does not say: every published one is
    moe = Moe(experts, Mlp(config.integer("moe_intermediate_size"), config.activation()), router)
    spec = with_experts(dense, moe, sparse_layers(config, len(dense.layers)))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *QUERY_KEY_NORMS, *moe_rows(spec)))


def windows(config: Config, layers: int) -> list[int | None]:
    """The same for every layer."""
    config.ignore(["max_window_layers"])
    window = config.optional_integer("sliding_window", 4096)
    return [window if config.flag("use_sliding_window", False) else None] * layers
