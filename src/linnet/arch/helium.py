"""Helium 1 (Kyutai 2025): Llama's layer, rotating neighbours."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_VALUE, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(head_dim=128, rms_norm_eps=1e-8, rope_theta=100_000.0, num_key_value_heads=20, max_position_embeddings=4096)
    spec = llama_spec(config, "helium", None, interleaved=True)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on queries, keys and values, and on the feed-forward block: there, not there, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(QUERY_KEY_VALUE, attention_bias), *GATED_MLP, *biases(GATED_MLP, mlp_bias)))
