"""LFM2 (Liquid AI 2025): short gated convolutions in most layers, attention with normalised queries and keys in the others."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm, ShortConvolution
from linnet.arch.table import ATTENTION, GATED_MLP, Row, Table, biases, has_attention, layer_row, renamed, split_rows, standard_table

LAYER = "model.layers.{layer}."
# What published configurations say besides: other words for what they say already, and how training began.
UNUSED = "block_dim block_norm_eps block_use_swiglu conv_dim conv_dim_out num_heads use_pos_enc block_mlp_init_scale".split()
UNUSED += "block_out_init_scale block_use_xavier_init conv_use_xavier_init".split()


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(rope_theta=config.number("theta", 1_000_000.0, low=1.0), intermediate_size=config.optional_integer("block_ff_dim"))
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("norm_eps", 1e-5))
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5, query_norm=norm, key_norm=norm)
    convolution = ShortConvolution(sizes.hidden, config.integer("conv_L_cache", 3))
    mlp = Mlp(_width(config), "silu")
    layers = tuple(Layer(attention if attends else convolution, mlp, norm, norm) for attends in _attending(config, sizes.layers))
    tied = config.flag("tie_embedding", config.flag("tie_word_embeddings", True))
    spec = ModelSpec("lfm2", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied)
    return spec, table(spec, config.flag("conv_bias", False))


def table(spec: ModelSpec, conv_bias: bool | None = None) -> Table:
    """conv_bias: whether convolutions and the projections around them have biases; None: as the checkpoint has them."""
    names = ("operator_norm", *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")))
    first, *projections = renamed(ATTENTION, LAYER, names)
    heads = [
        layer_row("attention.query_norm.weight", "self_attn.q_layernorm", "attn_q_norm", "head"),
        layer_row("attention.key_norm.weight", "self_attn.k_layernorm", "attn_k_norm", "head"),
    ]
    mlp = renamed(GATED_MLP, LAYER, ("ffn_norm", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2"))
    rows = [first, *(replace(row, when=has_attention) for row in (*projections, *heads)), *_convolution(spec, conv_bias), *mlp]
    return standard_table(spec, rows, ("model.embed_tokens", "model.embedding_norm", "lm_head"))


def _convolution(spec: ModelSpec, bias: bool | None) -> list[Row]:
    widths = [spec.hidden] * 3
    hf, gguf = split_rows(LAYER + "conv.in_proj.weight", widths), split_rows("blk.{layer}.shortconv.in_proj.weight", widths)
    rows = [
        Row(f"layers.convolution.{field}.matrix", ours, theirs, ("hidden", "hidden"))
        for field, ours, theirs in zip(("input_gate", "output_gate", "value"), hf, gguf, strict=True)
    ]
    rows.append(layer_row("convolution.output.matrix", "conv.out_proj", "shortconv.out_proj", "hidden", "hidden"))
    taps = layer_row("convolution.filter.weight", "conv.conv", "shortconv.conv", "convolved", 1, "taps")
    rows += biases(rows, bias)
    if bias is not False:
        name = LAYER + "conv.conv.bias"
        rows.append(Row("layers.convolution.filter.bias", name, None, ("convolved",), optional=bias is None))
    return [replace(row, when=_convolves) for row in (*rows, taps)]


def _convolves(layer: Layer) -> bool:
    return not has_attention(layer)


def _attending(config: Config, layers: int) -> list[bool]:
    """Which layers have attention: by `layer_types`, or the numbers in `full_attn_idxs`; without either all of them."""
    types, numbers = config.items("layer_types"), config.items("full_attn_idxs")
    if numbers is not None and not all(type(number) is int and 0 <= number < layers for number in numbers):
        raise config.error("full_attn_idxs", f"numbers of layers, from 0 to {layers - 1}")
    if types is None:
        return [numbers is None or layer in numbers for layer in range(layers)]
    if len(types) != layers or not all(kind in ("full_attention", "conv") for kind in types):
        raise config.error("layer_types", f"{layers} times full_attention or conv")
    return [kind == "full_attention" for kind in types]


def _width(config: Config) -> int:
    """The feed-forward block's: two thirds of what is said, times a factor, rounded up, unless that is its own already."""
    config.ignore(UNUSED)
    width = config.integer("block_ff_dim", config.integer("intermediate_size"))
    factor, multiple = config.number("block_ffn_dim_multiplier", 1.0), config.integer("block_multiple_of", 256)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return width
    return -(-int(factor * int(2 * width / 3)) // multiple) * multiple
