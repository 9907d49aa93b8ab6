"""Qwen 1.5 and 2 with mixtures of experts (Yang et al. 2024): some layers have one, with a gated block that every token passes."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.qwen2 import qwen_spec
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, QUERY_KEY_VALUE, Row, Stored, Table, biases, is_moe, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    dense = qwen_spec(config, "qwen2_moe", read_windows=windows)
    experts, width, activation = read_experts(config), config.integer("intermediate_size"), config.activation()
    router = read_router(config, experts, config.flag("norm_topk_prob", False))
    # The first GGUF files say neither width: experts share the dense block's, and the shared block has all of it.
    expert = Mlp(config.integer("moe_intermediate_size", width // router.active if gguf else 1408), activation)
    shared = Mlp(config.integer("shared_expert_intermediate_size", width if gguf else 5632), activation)
    spec = with_experts(dense, Moe(experts, expert, router, shared, shared_gated=True), sparse_layers(config, len(dense.layers)))
    return spec, table(spec, None if gguf else config.flag("qkv_bias", True))


def table(spec: ModelSpec, bias: bool | None = None) -> Table:
    """Biases: on queries, keys and values, on none, or (None) as the checkpoint has them."""
    gate = "model.layers.{layer}.mlp.shared_expert_gate.weight"
    vector = Stored("blk.{layer}.ffn_gate_inp_shexp.weight", shape=(spec.hidden,))
    gate_row = Row("layers.shared_gate.matrix", gate, vector, (1, "hidden"), when=is_moe)
    return standard_table(spec, (*ATTENTION, *biases(QUERY_KEY_VALUE, bias), *moe_rows(spec, shared="shared_expert"), gate_row))


def sparse_layers(config: Config, layers: int) -> list[bool]:
    """Which layers are mixtures: every `decoder_sparse_step`th but for `mlp_only_layers`."""
    step, dense = config.integer("decoder_sparse_step", 1), config.items("mlp_only_layers") or []
    if not all(type(layer) is int for layer in dense):
        raise config.error("mlp_only_layers", "a list of numbers of layers")
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def windows(config: Config, layers: int) -> list[int | None]:
    """Each layer's window: by `layer_types`, or every second one's below `max_window_layers`."""
    first = config.integer("max_window_layers", 28, low=0)
    sliding = sliding_layers(config, layers, lambda layer: layer % 2 == 0 and layer < first)
    used = config.flag("use_sliding_window", False)
    window = config.optional_integer("sliding_window", 4096, low=int(used))  # transformers writes 0 where it is not used
    return [window if slides and used else None for slides in sliding]
