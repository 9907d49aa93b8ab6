"""BLOOM (BigScience 2022): ALiBi in place of positions, and a norm right after the embedding."""

from __future__ import annotations

from linnet.arch.alibi import alibi_slopes
from linnet.arch.config import Config
from linnet.arch.plain import GPT_KEYS, PLAIN_LAYER, in_one_tensor, plain_table, read_plain
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec
from linnet.arch.table import Row, Table, biases, renamed

QKV = "self_attention.query_key_value"
NAMES = (
    "input_layernorm",
    *(QKV, QKV, QKV, "self_attention.dense"),
    "post_attention_layernorm",
    *("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
)
"""Of the rows of PLAIN_LAYER."""
LAYERS = "transformer.h.{layer}."
OUTER = ("transformer.word_embeddings", "transformer.ln_f", "lm_head")
EMBEDDING_NORM = Row("embedding_norm.weight", "transformer.word_embeddings_layernorm.weight", "token_embd_norm.weight", ("hidden",))
HARMLESS = "attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion offset_alibi skip_bias_add slow_but_exact".split()
"""Ways of the training's own code to compute the same."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(**GPT_KEYS)
    config.called(hidden_size="n_embed", max_position_embeddings="seq_length")
    config.assume(max_position_embeddings=2048)  # that of the training; ALiBi knows no limit
    config.ignore(HARMLESS)
    sizes, norm = read_plain(config)
    attention = Attention(sizes.heads, sizes.heads, sizes.head_dim, (), sizes.head_dim**-0.5, alibi=alibi_slopes(sizes.heads))
    normed = config.flag("apply_residual_connection_post_layernorm", False)
    mlp = Mlp(sizes.width, "gelu_tanh", gated=False)
    layer = Layer(attention, mlp, norm, norm, residual="normed" if normed else "input")
    context, tied = config.integer("max_position_embeddings"), config.flag("tie_word_embeddings", True)
    embedding = Embedding(norm=norm)
    spec = ModelSpec("bloom", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied, embedding)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    rows = in_one_tensor(renamed(PLAIN_LAYER, LAYERS, NAMES), spec, f"{LAYERS}{QKV}.weight", grouped=True)
    return plain_table(spec, [EMBEDDING_NORM, *rows, *biases(rows)], OUTER, "transformer.")
