"""Falcon (Almazrouei et al. 2023): one KV head for all queries (7B), or several (40B, 11B: the "new" architecture); or, in Falcon-RW, as
many as queries, with ALiBi and blocks one after the other. Attention and feed-forward block otherwise go side by side, after one norm
or (40B) one each. The first checkpoints call themselves RefinedWeb (40B) and RefinedWebModel.

ALiBi's biases are exact here; transformers rounds them to bfloat16, which is felt where heads are more than 8 or prompts long.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.alibi import alibi_slopes
from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, in_one_tensor, plain_table, read_plain
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec
from linnet.arch.table import Table, biases, renamed

QKV = "self_attention.query_key_value"
LAYERS = "transformer.h.{layer}."
OUTER = ("transformer.word_embeddings", "transformer.ln_f", "lm_head")


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(hidden_size="n_embed", num_hidden_layers="n_layer", num_attention_heads="n_head", num_kv_heads="n_head_kv")
    config.called(intermediate_size="ffn_hidden_size", hidden_act="activation", layer_norm_eps="layer_norm_epsilon")
    config.assume(hidden_act="gelu", max_position_embeddings=2048)
    config.ignore(["ff_factor"])  # ffn_hidden_size says what it comes to
    gguf = config.format == "gguf"
    new = config.flag("new_decoder_architecture", config.text("model_type") == "RefinedWeb")
    if not gguf:
        config.assume(num_key_value_heads=_kv_heads(config, new))
    sizes, norm = read_plain(config)
    norms = config.integer("num_ln_in_parallel_attn", 2) if new else 1
    if norms > 2:
        raise config.error("num_ln_in_parallel_attn", "1 or 2")
    two_norms = "blk.0.attn_norm_2.weight" in config.tensors if gguf else norms == 2
    parallel = config.flag("parallel_attn", True) or new
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (), sizes.head_dim**-0.5)
    if config.flag("alibi", False):
        config.ignore(["rope_parameters", "rope_scaling", "rope_theta"])
        context = config.integer("max_position_embeddings")
        slopes = tuple(slope * attention.scale for slope in alibi_slopes(sizes.heads))
        attention = replace(attention, alibi=slopes)
    else:
        rope = read_rope(config, sizes.head_dim)
        context, attention = longest(rope), replace(attention, ropes=(rope,))
    mlp = Mlp(sizes.width, config.activation(), gated=False)
    layer = Layer(attention, mlp, norm, norm if two_norms or not parallel else None, parallel=parallel)
    tied = config.flag("tie_word_embeddings", True)
    spec = ModelSpec("falcon", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, None if gguf else config.flag("bias", False))


def _kv_heads(config: Config, new: bool) -> int:
    """The older architecture has one, or as many as queries."""
    heads = config.integer("num_attention_heads")
    stated, one = config.integer("num_kv_heads", heads), config.flag("multi_query", True)
    return stated if new else 1 if one else heads


def table(spec: ModelSpec, linear_biases: bool | None = None) -> Table:
    """Biases: on every projection, on none, or (None) as the checkpoint has them."""
    layer = spec.layers[0]
    two = ("ln_attn", "ln_mlp") if layer.parallel else ("input_layernorm", "post_attention_layernorm")
    norms = ("input_layernorm", "") if layer.mlp_norm is None else two
    names = (norms[0], QKV, QKV, QKV, "self_attention.dense", norms[1], "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    rows = in_one_tensor(renamed(PLAIN_LAYER, LAYERS, names), spec, f"{LAYERS}{QKV}.weight", grouped=True)
    if layer.mlp_norm is None:
        del rows[5]
    elif layer.parallel:  # GGUF calls the norm before the feed-forward block the first
        rows[0] = replace(rows[0], gguf="blk.{layer}.attn_norm_2.weight")
        rows[5] = replace(rows[5], gguf="blk.{layer}.attn_norm.weight")
    return plain_table(spec, [*rows, *biases(rows, linear_biases)], OUTER, "transformer.")
