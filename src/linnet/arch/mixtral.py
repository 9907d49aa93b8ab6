"""Mixtral (Jiang et al. 2024): Llama with a mixture of experts in every layer.

GGUF calls these files "llama".
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, Table, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "hf":
        config.assume(rope_theta=1e6)
    dense = llama_spec(config, "mixtral", config.optional_integer("sliding_window"))
    experts, expert = read_experts(config), dense.layers[0].mlp
    assert isinstance(expert, Mlp)
    if config.format == "gguf":
        expert = replace(expert, width=config.integer("moe_intermediate_size", expert.width))
    moe = Moe(experts, expert, read_router(config, experts, normalise=True))
    spec = with_experts(dense, moe, [True] * len(dense.layers))
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    """Published experts are w1, w3 and w2: gate, up and down."""
    return standard_table(spec, (*ATTENTION, *moe_rows(spec, "block_sparse_moe", ("w1", "w3", "w2"))))
