"""MPT (MosaicML 2023): ALiBi in place of positions, layer norms without biases, GELU without a gate, and no biases at all."""

from __future__ import annotations

from linnet.arch.alibi import alibi_slopes
from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, in_one_tensor, read_plain
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Output
from linnet.arch.table import Table, renamed, standard_table

NAMES = ("norm_1", "attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.out_proj", "norm_2", "ffn.up_proj", "ffn.down_proj")
"""Of the rows of PLAIN_LAYER."""
LAYERS = "transformer.blocks.{layer}."
OUTER = ("transformer.wte", "transformer.norm_f", "lm_head")
TRAINING = "attn_pdrop emb_pdrop embedding_fraction init_config init_nonlinearity learned_pos_emb verbose".split()
"""Keys of the training, and one that ALiBi leaves without a meaning."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(hidden_size="d_model", num_hidden_layers="n_layers", num_attention_heads="n_heads", max_position_embeddings="max_seq_len")
    config.called(layer_norm_eps="layer_norm_epsilon")
    config.ignore(TRAINING)
    config.assume(intermediate_size=config.integer("expansion_ratio", 4) * config.integer("hidden_size"))
    inner = config if config.format == "gguf" else config.group("attn_config") or config
    sizes, norm = read_plain(config)
    scale = inner.number("softmax_scale", sizes.head_dim**-0.5)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (), scale, alibi=_slopes(inner, sizes.heads))
    layer = Layer(attention, Mlp(sizes.width, "gelu", gated=False), norm, norm)
    _check(config, inner)
    context, tied = config.integer("max_position_embeddings", 2048), config.flag("tie_word_embeddings", True)
    output = Output(scale=config.number("logit_scale", 1.0))
    spec = ModelSpec("mpt", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied, output=output)
    return spec, table(spec)


def _slopes(config: Config, heads: int) -> tuple[float, ...]:
    config.ignore(["attn_pdrop"])
    if not config.flag("alibi", True):
        raise config.error("alibi", "true")
    return alibi_slopes(heads, config.number("alibi_bias_max", 8.0))


def _check(config: Config, inner: Config) -> None:
    """What MPT's own code also knows, and no published model has."""
    if not config.flag("no_bias", True):
        raise config.error("no_bias", "true")
    for group, key, usual in ((config, "norm_type", "low_precision_layernorm"), (inner, "attn_type", "multihead_attention")):
        if group.text(key, usual) != usual:
            raise group.error(key, usual)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, in_one_tensor(renamed(PLAIN_LAYER, LAYERS, NAMES), spec, f"{LAYERS}attn.Wqkv.weight", grouped=False), OUTER)
