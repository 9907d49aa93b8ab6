"""The tensors of Gemma 4."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.gemma2 import NORMS
from linnet.arch.inside import inside
from linnet.arch.spec import Layer, ModelSpec, Moe
from linnet.arch.table import (
    ATTENTION,
    GATED_MLP,
    QUERY_KEY_NORMS,
    Part,
    Row,
    Stored,
    Table,
    biases,
    is_moe,
    layer_row,
    standard_table,
)

_LAYER, _BLOCK = "model.layers.{layer}", "blk.{layer}"

_PER_LAYER = (
    Row("per_layer_embedding", "model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", ("vocab", "all_layers")),
    Row("per_layer_projection.matrix", "model.per_layer_model_projection.weight", "per_layer_model_proj.weight", ("all_layers", "hidden")),
    Row("per_layer_norm.weight", "model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", ("per_layer",)),
    layer_row("per_layer_gate.matrix", "per_layer_input_gate", "inp_gate", "per_layer", "hidden"),
    layer_row("per_layer_projection.matrix", "per_layer_projection", "proj", "hidden", "per_layer"),
    layer_row("per_layer_norm.weight", "post_per_layer_input_norm", "post_norm", "hidden"),
)
_ROUTING = (
    Row("layers.router.matrix", f"{_LAYER}.router.proj.weight", f"{_BLOCK}.ffn_gate_inp.weight", ("experts", "hidden")),
    Row("layers.router_norm.weight", f"{_LAYER}.router.scale", f"{_BLOCK}.ffn_gate_inp.scale", ("hidden",)),
    Row("layers.expert_scale", f"{_LAYER}.router.per_expert_scale", f"{_BLOCK}.ffn_down_exps.scale", ("experts",)),
    layer_row("shared_post_norm.weight", "post_feedforward_layernorm_1", "post_ffw_norm_1", "hidden"),
    layer_row("experts_norm.weight", "pre_feedforward_layernorm_2", "pre_ffw_norm_2", "hidden"),
    layer_row("experts_post_norm.weight", "post_feedforward_layernorm_2", "post_ffw_norm_2", "hidden"),
)
_OUTPUT_SCALE = Row("layers.output_scale", f"{_LAYER}.layer_scalar", f"{_BLOCK}.layer_output_scale.weight", (1,), when=lambda x: x.rescaled)


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the projections of attention, on none, or (None) as the checkpoint has them."""
    queries, keys, values, output = ATTENTION[1], _own(ATTENTION[2]), replace(ATTENTION[3], when=_has_values), ATTENTION[4]
    matrices = (queries, keys, values, output)
    rows = (
        *(ATTENTION[0], *matrices, *biases(matrices, attention_bias), QUERY_KEY_NORMS[0], _own(QUERY_KEY_NORMS[1])),
        *(*NORMS, *GATED_MLP[1:], _OUTPUT_SCALE),
        *(_PER_LAYER if spec.layers[0].per_layer else ()),
        *((*_ROUTING, *_experts(spec)) if is_moe(spec.layers[0]) else ()),
    )
    return inside(standard_table(spec, rows, ignored=_unread(spec)))


def _own(row: Row) -> Row:
    return replace(row, when=lambda layer: layer.attention.kv_layer is None)


def _has_values(layer: Layer) -> bool:
    return layer.attention.kv_layer is None and not layer.attention.keys_as_values


def _unread(spec: ModelSpec) -> list[str]:
    """What published checkpoints have of layers that read the keys and values of another."""
    shared = [index for index, layer in enumerate(spec.layers) if layer.attention.kv_layer is not None]
    return [name for index in shared for name in (f"*.layers.{index}.self_attn.[kv]_*", f"blk.{index}.attn_[kv]*")]


def _experts(spec: ModelSpec) -> tuple[Row, ...]:
    """Each gate above its up; GGUF files may have them apart."""
    moe = spec.layers[0].mlp
    if not isinstance(moe, Moe):
        return ()
    width, both = moe.expert.width, (f"{_LAYER}.experts.gate_up_proj", f"{_BLOCK}.ffn_gate_up_exps.weight")

    def row(field: str, part: Part) -> Row:
        ours, theirs = (Stored(name, part) for name in both)
        shape = ("experts", "expert_width", "hidden")
        return Row(f"layers.experts.{field}.matrix", ours, (theirs, f"{_BLOCK}.ffn_{field}_exps.weight"), shape)

    down = (f"{_LAYER}.experts.down_proj", f"{_BLOCK}.ffn_down_exps.weight", ("experts", "hidden", "expert_width"))
    return row("gate", Part(0, width, 2 * width)), row("up", Part(width, 2 * width, 2 * width)), Row("layers.experts.down.matrix", *down)
