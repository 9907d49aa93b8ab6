"""Gemma 4 (Gemma Team 2026), its text model, also out of a checkpoint that sees and hears: Gemma 3 with wider heads in the layers that
see everything, where keys may serve as values, and values that are normalised. The last layers of the small models read the keys and
values of earlier ones, and all have embeddings of their own; the largest adds a mixture of experts to each dense block."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.gemma4_table import table
from linnet.arch.inside import text_config
from linnet.arch.layer_types import of_layer, sliding_layers
from linnet.arch.moe import read_experts, read_router
from linnet.arch.rope_config import read_two_ropes
from linnet.arch.sizes import Sizes, read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Moe, Norm, Output, PerLayer
from linnet.arch.table import Table
from linnet.errors import UnsupportedModelError

ROPES = {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}, "sliding_attention": {}}
# What transformers assumes, also of the model that has no towers for what it sees and hears ("unified").
DEFAULTS = {"vocab_size": 262_144, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rope_parameters": ROPES}
APART, UNIFIED = ({"sliding_window": 512 * times, "max_position_embeddings": 131_072 * times} for times in (1, 2))


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    config, tied = text_config(config)
    config.assume(hidden_activation="gelu_pytorch_tanh")
    if not gguf:
        config.assume(**DEFAULTS, **(UNIFIED if "unified" in config.text("model_type", "gemma4_text") else APART))
        if (sees := config.text("use_bidirectional_attention", "vision")) != "vision":
            raise UnsupportedModelError(f"{config.where}: {config.name('use_bidirectional_attention')} is {sees!r}; only vision runs")
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-6))
    slides = sliding_layers(config, sizes.layers, lambda layer: (layer + 1) % 6 != 0)
    slides[-1] = slides[-1] and gguf  # as transformers has it, whatever a configuration says
    shared = sizes.layers - config.integer("num_kv_shared_layers", 0, low=0, high=sizes.layers - 1)
    wider = 2 if config.flag("use_double_wide_mlp", False) else 1
    widths = [of_layer(config, index, "intermediate_size", sizes.width * (1 if index < shared else wider)) for index in range(sizes.layers)]
    per_layer, moe = _per_layer(config, sizes, norm), _mixture(config, sizes, norm)
    rescaled = not gguf or "blk.0.layer_output_scale.weight" in config.tensors

    def layer(attention: Attention, width: int) -> Layer:
        dense = Mlp(width, config.activation("hidden_activation"))
        block = dense if moe is None else replace(moe, shared=dense)
        return Layer(attention, block, norm, norm, norm, norm, per_layer=per_layer, rescaled=rescaled)

    layers = tuple(map(layer, _attentions(config, sizes, norm, slides, shared), widths))
    context, softcap = config.integer("max_position_embeddings"), config.optional_number("final_logit_softcapping", 30.0 if gguf else None)
    embedding, output = Embedding(scale=sizes.hidden**0.5), Output(softcap=softcap)
    spec = ModelSpec("gemma4", sizes.vocab, sizes.hidden, context, layers, norm, tied, embedding, output)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def _attentions(config: Config, sizes: Sizes, norm: Norm, slides: list[bool], shared: int) -> list[Attention]:
    """Of every layer; those from `shared` on read the keys and values of the last of their kind before it."""
    gguf, as_values = config.format == "gguf", config.flag("attention_k_eq_v", False)
    config.assume(sliding_head_dim=sizes.head_dim, sliding_value_head_dim=config.integer("sliding_head_dim", sizes.head_dim))
    dims, kv_heads = {True: config.integer("sliding_head_dim"), False: sizes.head_dim}, {True: sizes.kv_heads, False: sizes.kv_heads}
    if config.integer("sliding_value_head_dim") != dims[True]:
        raise config.error("sliding_value_head_dim", f"the keys' {dims[True]}")
    if not gguf and config.group("per_layer_config") is None:  # which says these of each layer
        dims[False] = config.integer("global_head_dim", 512)
        kv_heads[False] = (config.optional_integer("num_global_key_value_heads") if as_values else None) or sizes.kv_heads
    config.ignore(["global_head_dim", "num_global_key_value_heads"])
    given = [of_layer(config, index, "head_dim", dims[near]) for index, near in enumerate(slides)]
    dims |= dict(zip(slides, given, strict=True))
    everywhere, nearby = read_two_ropes(config, dims[False], 1e4, dims[True])
    window, last, made = config.optional_integer("sliding_window"), {near: i for i, near in enumerate(slides[:shared])}, list[Attention]()
    for index, near in enumerate(slides):
        if given[index] != dims[near]:
            raise config.error("per_layer_config", f"a head_dim of {dims[near]}, as in others of its kind, in layer {index}")
        heads, rope = of_layer(config, index, "num_key_value_heads", kv_heads[near]), nearby if near else everywhere
        attention = Attention(sizes.heads, heads, dims[near], (rope,), 1.0, window if near else None, norm)
        if index < shared:
            lacks = f"blk.{index}.attn_v.weight" not in config.tensors if gguf else as_values and not near
            made.append(replace(attention, key_norm=norm, value_norm=norm, keys_as_values=lacks))
        elif near in last:
            made.append(replace(attention, kv_layer=last[near]))
        else:
            raise config.error("num_kv_shared_layers", f"so few that layer {index} has one of its kind before them")
    return made


def _per_layer(config: Config, sizes: Sizes, norm: Norm) -> PerLayer | None:
    usual = 256 if config.format == "hf" and "unified" not in config.text("model_type", "") else 0
    width = config.optional_integer("hidden_size_per_layer_input", usual, low=0)
    if config.integer("vocab_size_per_layer_input", sizes.vocab) != sizes.vocab and width:
        raise config.error("vocab_size_per_layer_input", f"as many as vocab_size ({sizes.vocab})")
    return PerLayer(width, config.activation("hidden_activation"), norm) if width else None


def _mixture(config: Config, sizes: Sizes, norm: Norm) -> Moe | None:
    if not config.flag("enable_moe_block", config.format == "gguf" and config.optional_integer("num_experts", low=0) not in (None, 0)):
        config.ignore(["num_experts", "top_k_experts", "moe_intermediate_size"])
        return None
    config.called(num_experts_per_tok="top_k_experts")
    router = replace(read_router(config, experts := read_experts(config), normalise=True), rescaled=True, input_scale=sizes.hidden**-0.5)
    return Moe(experts, Mlp(config.integer("moe_intermediate_size"), config.activation("hidden_activation")), router, branch_norm=norm)
