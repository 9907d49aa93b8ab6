"""Hybrids of the gated delta rule and gated attention: what their configurations and their tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.gemma import less_one
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, GatedDeltaNet, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import (
    ATTENTION,
    QUERY_KEY_NORMS,
    Row,
    Stored,
    Table,
    biases,
    has_attention,
    layer_row,
    split_rows,
    standard_table,
)

LINEAR = "model.layers.{layer}.linear_attn."


def hybrid_spec(config: Config, family: str, tied: bool) -> ModelSpec:
    """The decoder with dense blocks."""
    config.assume(partial_rotary_factor=0.25)
    sizes = read_sizes(config, 256)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    scale = sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, query_norm=norm, key_norm=norm, gated=True)
    net, mlp = _read_net(config, norm), Mlp(sizes.width, config.activation())
    layers = tuple(Layer(attention if attends else net, mlp, norm, norm) for attends in _attending(config, sizes.layers))
    return ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied)


def _read_net(config: Config, norm: Norm) -> GatedDeltaNet:
    key_heads, value_heads = config.integer("linear_num_key_heads", 16), config.integer("linear_num_value_heads", 32)
    if value_heads % key_heads:
        raise config.error("linear_num_value_heads", f"a multiple of {config.name('linear_num_key_heads')} ({key_heads})")
    key_dim, value_dim = config.integer("linear_key_head_dim", 128), config.integer("linear_value_head_dim", 128)
    return GatedDeltaNet(key_heads, value_heads, key_dim, value_dim, config.integer("linear_conv_kernel_dim", 4), norm)


def _attending(config: Config, layers: int) -> list[bool]:
    """Which layers have attention: by `layer_types`, or every fourth (`full_attention_interval`)."""
    interval, types = config.integer("full_attention_interval", 4), config.items("layer_types")
    if types is None:
        return [(layer + 1) % interval == 0 for layer in range(layers)]
    if len(types) != layers or not all(kind in ("full_attention", "linear_attention") for kind in types):
        raise config.error("layer_types", f"{layers} times full_attention or linear_attention")
    return [kind == "full_attention" for kind in types]


def hybrid_table(spec: ModelSpec, projections: Sequence[Row], attention_bias: bool | None, blocks: Sequence[Row]) -> Table:
    """projections: what the delta rule reads, named and packed in each family's own way. Weights of norms are stored less 1, but for that
    of the delta rule's result. attention_bias: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    matrices = (*_queries(spec), *ATTENTION[2:])
    attention = (*matrices, *biases(matrices, attention_bias), *QUERY_KEY_NORMS)
    rows = [ATTENTION[0], *(replace(row, when=has_attention) for row in attention), *blocks]
    common = less_one(standard_table(spec, rows, ignored=("mtp.*",)))
    return replace(common, rows=(*common.rows, *(replace(row, when=_has_net) for row in (*projections, *_rest(spec)))))


def _queries(spec: ModelSpec) -> list[Row]:
    """Each head's queries and gate lie one after the other."""
    if not spec.attentions:
        return []
    attention = spec.attentions[0]
    query, gate = split_rows("model.layers.{layer}.self_attn.q_proj.weight", [attention.head_dim] * 2, attention.heads)
    return [
        Row("layers.attention.query.matrix", query, None, ("query", "hidden")),
        Row("layers.attention.gate.matrix", gate, None, ("attention", "hidden")),
    ]


def _rest(spec: ModelSpec) -> list[Row]:
    """The convolution, of queries, keys and values in one; how fast heads forget; what becomes of their results."""
    net = net_of(spec)
    if net is None:
        return []
    taps = zip(("query", "key", "value"), split_rows(LINEAR + "conv1d.weight", net.tap_widths), ("key", "key", "value"), strict=True)
    return [
        *(Row(f"layers.delta_net.{name}_filter.weight", how, None, (size, 1, "taps")) for name, how, size in taps),
        Row("layers.delta_net.rate.bias", LINEAR + "dt_bias", None, ("value_heads",)),
        Row("layers.delta_net.decay", Stored(LINEAR + "A_log", apply="exp"), None, ("value_heads",)),
        layer_row("delta_net.norm.weight", "linear_attn.norm", None, "value_head"),
        layer_row("delta_net.output.matrix", "linear_attn.out_proj", None, "hidden", "value"),
    ]


def net_of(spec: ModelSpec) -> GatedDeltaNet | None:
    return next((layer.mixer for layer in spec.layers if isinstance(layer.mixer, GatedDeltaNet)), None)


def projection_rows(**stored: Stored | str) -> list[Row]:
    """Rows of projections of the layer's input, by field."""
    sizes = {"query": "key", "gate": "value", "rate": "value_heads", "strength": "value_heads"}
    return [Row(f"layers.delta_net.{name}.matrix", how, None, (sizes.get(name, name), "hidden")) for name, how in stored.items()]


def _has_net(layer: Layer) -> bool:
    return isinstance(layer.mixer, GatedDeltaNet)
