"""DeepSeek V2 (2024): latent attention, and experts chosen from the best groups of them."""

from __future__ import annotations

from collections.abc import Callable

from linnet.arch.config import Config
from linnet.arch.deepseek import later_layers
from linnet.arch.latent import latent_rows, read_attention
from linnet.arch.moe import SIGMOID, moe_rows, read_moe, read_router, with_experts
from linnet.arch.rope_config import longest
from linnet.arch.sizes import read_layers
from linnet.arch.spec import Layer, Mlp, ModelSpec, Norm, Router
from linnet.arch.table import Table, biases, standard_table
from linnet.errors import UnsupportedModelError


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if gguf and config.integer("expert_gating_func", 0, low=0) == SIGMOID:
        from linnet.arch import deepseek_v3

        return deepseek_v3.build(config)
    norm = None if gguf else Norm(1e-6)  # DeepSeek's code does not read it there
    spec = latent_spec(config, "deepseek_v2", group_router, norm)
    if gguf:
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def latent_spec(config: Config, family: str, read_router: Callable[[Config, int], Router], latent_norm: Norm | None = None) -> ModelSpec:
    """DeepSeek's decoder since V2. read_router: from the configuration and the number of experts. latent_norm: of what narrow projections
    give; None: as of the layers."""
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    attention = read_attention(config, latent_norm or norm)
    layer = Layer(attention, Mlp(config.integer("intermediate_size"), config.activation()), norm, norm)
    layers, context = read_layers(config), longest(attention.ropes[0])
    vocab, hidden, tied = config.integer("vocab_size"), config.integer("hidden_size"), config.flag("tie_word_embeddings", False)
    dense = ModelSpec(family, vocab, hidden, context, (layer,) * layers, norm, tied)
    return with_experts(dense, read_moe(config, read_router), later_layers(config, layers))


def group_router(config: Config, experts: int) -> Router:
    """From all experts ("greedy"), or from the best groups of them, which GGUF shows by there being several."""
    method = config.text("topk_method", "greedy" if config.format == "hf" else "group_limited_greedy")
    if method not in ("greedy", "group_limited_greedy"):
        known = "greedy, group_limited_greedy"
        raise UnsupportedModelError(f"{config.where}: {config.name('topk_method')} is {method!r}; known are {known}")
    if config.flag("norm_topk_prob", False):  # DeepSeek's code then leaves out the scale, llama.cpp does not, transformers does neither
        raise UnsupportedModelError(f"{config.where}: {config.name('norm_topk_prob')} is true; only false runs in this family")
    groups, active = config.integer("n_group", 1), config.integer("topk_group", 1)
    if method == "greedy":
        groups = active = 1
    return read_router(config, experts, False, "softmax", config.number("routed_scaling_factor", 1.0), groups, active)


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on attention's first and last projections, and on blocks that are not experts; or on none, or (None) as the checkpoint
    has them."""
    rows = moe_rows(spec)
    blocks = [row for row in rows if row.field.startswith("layers.mlp.")]
    return standard_table(spec, (*latent_rows(spec.layers[0].attention, attention_bias), *rows, *biases(blocks, mlp_bias)))
