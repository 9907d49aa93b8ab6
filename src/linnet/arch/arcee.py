"""Arcee's AFM (2025): Llama's layer with ReLU squared and no gate."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.plain import PLAIN_LAYER
from linnet.arch.spec import Mlp, ModelSpec
from linnet.arch.table import Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(hidden_act="relu2", rms_norm_eps=1e-5)
    spec = llama_spec(config, "arcee", None)
    layer = replace(spec.layers[0], mlp=Mlp(spec.dense_block.width, spec.dense_block.activation, gated=False))
    spec = replace(spec, layers=(layer,) * len(spec.layers))
    if config.format == "gguf":
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on every projection of the block, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*PLAIN_LAYER, *biases(PLAIN_LAYER[:5], attention_bias), *biases(PLAIN_LAYER[5:], mlp_bias)))
