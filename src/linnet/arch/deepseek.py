"""DeepSeekMoE (Dai et al. 2024): Llama with many narrow experts past the first layers, and blocks that every token passes."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.moe import moe_rows, read_experts, read_router, read_shared, with_experts
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, Table, biases, standard_table
from linnet.errors import UnsupportedModelError


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    dense = llama_spec(config, "deepseek", None)
    experts, width = read_experts(config), config.integer("moe_intermediate_size")
    if config.number("routed_scaling_factor", 1.0) != 1.0:
        raise UnsupportedModelError(f"{config.where}: {config.name('routed_scaling_factor')} is not 1, which this family does not have")
    router = read_router(config, experts, config.flag("norm_topk_prob", False))
    moe = Moe(experts, Mlp(width, config.activation()), router, read_shared(config, width))
    spec = with_experts(dense, moe, later_layers(config, len(dense.layers)))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *moe_rows(spec)))


def later_layers(config: Config, layers: int) -> list[bool]:
    """Which layers are mixtures: as `mlp_layer_types` says; or every `moe_layer_freq`th, counted from the first, past the
    `first_k_dense_replace` first."""
    first, step = config.integer("first_k_dense_replace", 0, low=0), config.integer("moe_layer_freq", 1)
    types = config.items("mlp_layer_types")
    if types is not None:
        if len(types) != layers or not all(type in ("dense", "sparse") for type in types):
            raise config.error("mlp_layer_types", f"{layers} times dense or sparse")
        return [type == "sparse" for type in types]
    return [layer >= first and layer % step == 0 for layer in range(layers)]
