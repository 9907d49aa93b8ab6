"""Qwen 3.5 (Qwen Team 2026), its text model, also out of a checkpoint that sees: Qwen 3 Next's layers with projections of their own for
each part, over dense blocks or over mixtures of experts."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.delta_net import LINEAR, hybrid_spec, hybrid_table, net_of, projection_rows
from linnet.arch.inside import inside, text_config
from linnet.arch.moe import moe_rows, with_experts
from linnet.arch.qwen3_next import SHARED_GATE, read_mixture
from linnet.arch.spec import ModelSpec, Moe
from linnet.arch.table import GATED_MLP, Table, split_rows
from linnet.errors import UnsupportedModelError


def build(config: Config) -> tuple[ModelSpec, Table]:
    mixture = config.text("model_type").startswith("qwen3_5_moe")
    config, tied = text_config(config, tied=False)
    config.ignore(["mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"])
    if not config.flag("attn_output_gate", True):
        raise UnsupportedModelError(
            f"{config.where}: {config.name('attn_output_gate')} is false; attention without a gate is not built here"
        )
    rope = config.group("rope_parameters")
    if rope is not None:  # three axes that are one where there is no picture
        rope.ignore(["mrope_section", "mrope_interleaved"])
    if mixture:
        config.assume(intermediate_size=config.integer("moe_intermediate_size", 512))
    spec = hybrid_spec(config, "qwen3_5", tied)
    if mixture:
        spec = with_experts(spec, read_mixture(config, True), [True] * len(spec.layers))
    return spec, table(spec, config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    net, projections = net_of(spec), []
    if net is not None:
        query, key, value = split_rows(LINEAR + "in_proj_qkv.weight", net.tap_widths)
        own = {field: f"{LINEAR}in_proj_{name}.weight" for field, name in (("gate", "z"), ("strength", "b"), ("rate", "a"))}
        projections = projection_rows(query=query, key=key, value=value, **own)
    mixture = any(isinstance(layer.mlp, Moe) for layer in spec.layers)
    blocks = (*moe_rows(spec, shared="shared_expert"), SHARED_GATE) if mixture else GATED_MLP
    return inside(hybrid_table(spec, projections, attention_bias, blocks))
