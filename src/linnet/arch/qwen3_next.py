"""Qwen 3 Next (Qwen Team 2025): three layers of the gated delta rule for each of gated attention, over mixtures of experts."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.delta_net import LINEAR, hybrid_spec, hybrid_table, net_of, projection_rows
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.qwen2_moe import sparse_layers
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import Row, Table, is_moe, split_rows

SHARED_GATE = Row("layers.shared_gate.matrix", "model.layers.{layer}.mlp.shared_expert_gate.weight", None, (1, "hidden"), when=is_moe)


def build(config: Config) -> tuple[ModelSpec, Table]:
    dense = hybrid_spec(config, "qwen3_next", config.flag("tie_word_embeddings", False))
    spec = with_experts(dense, read_mixture(config, config.flag("norm_topk_prob", True)), sparse_layers(config, len(dense.layers)))
    return spec, table(spec, config.flag("attention_bias", False))


def read_mixture(config: Config, normalise: bool) -> Moe:
    """Experts, and a gated block that every token passes."""
    experts, activation = read_experts(config), config.activation()
    shared = Mlp(config.integer("shared_expert_intermediate_size", 512), activation)
    expert = Mlp(config.integer("moe_intermediate_size", 512), activation)
    return Moe(experts, expert, read_router(config, experts, normalise), shared, shared_gated=True)


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    net, projections = net_of(spec), []
    if net is not None:  # packed for each key head with the value heads that share it
        shared = net.value_heads // net.key_heads
        widths = [net.key_dim, net.key_dim, shared * net.value_dim, shared * net.value_dim]
        query, key, value, gate = split_rows(LINEAR + "in_proj_qkvz.weight", widths, net.key_heads)
        strength, rate = split_rows(LINEAR + "in_proj_ba.weight", [shared, shared], net.key_heads)
        projections = projection_rows(query=query, key=key, value=value, gate=gate, strength=strength, rate=rate)
    return hybrid_table(spec, projections, attention_bias, (*moe_rows(spec, shared="shared_expert"), SHARED_GATE))
