"""OLMo 2 (OLMo et al. 2024): Llama's layer with norms after its blocks in place of before, and queries and keys normalised whole."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Table, biases, layer_row, standard_table

NORMS = (
    layer_row("attention.query_norm.weight", "self_attn.q_norm", "attn_q_norm", "query"),
    layer_row("attention.key_norm.weight", "self_attn.k_norm", "attn_k_norm", "key"),
    layer_row("attention_post_norm.weight", "post_attention_layernorm", "post_attention_norm", "hidden"),
    layer_row("mlp_post_norm.weight", "post_feedforward_layernorm", "post_ffw_norm", "hidden"),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-5))
    scale = sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, norm, norm, norm_heads=False)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), None, None, norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("olmo2", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, None if config.format == "gguf" else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION[1:], *biases(ATTENTION, attention_bias), *NORMS, *GATED_MLP[1:]))
