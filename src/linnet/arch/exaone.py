"""EXAONE 3, 3.5 and Deep (LG AI Research 2024-2025): Llama under other names."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, GATED_MLP, Table, renamed, standard_table

NAMES = (
    *("ln_1", "attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj", "attn.attention.out_proj"),
    *("ln_2", "mlp.c_fc_0", "mlp.c_fc_1", "mlp.c_proj"),
)
"""Of the rows of ATTENTION and GATED_MLP."""
OUTER = ("transformer.wte", "transformer.ln_f", "lm_head")


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(num_hidden_layers="num_layers", hidden_act="activation_function")
    config.called(rms_norm_eps="layer_norm_eps" if config.format == "gguf" else "layer_norm_epsilon")
    config.assume(rms_norm_eps=1e-5)
    config.ignore(["embed_dropout"])
    spec = llama_spec(config, "exaone", None, interleaved=False)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, renamed((*ATTENTION, *GATED_MLP), "transformer.h.{layer}.", NAMES), OUTER)
