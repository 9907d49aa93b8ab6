"""Qwen 3, dense (Yang et al. 2025): Qwen 2 with normalised queries and keys, and biases only where the config asks."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.qwen2 import qwen_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_NORMS, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "gguf":
        spec = qwen_spec(config, "qwen3", query_key_norms=True)
        return spec, table(spec)
    spec = qwen_spec(config, "qwen3", head_dim=128, query_key_norms=True)
    return spec, table(spec, config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *QUERY_KEY_NORMS, *GATED_MLP))
