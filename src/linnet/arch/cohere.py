"""Command-R and Aya 23 (Cohere 2024): attention and feed-forward block side by side on one norm without bias, logits scaled.

Rotation turns neighbours in either kind of file. Command-R+ normalises queries and keys, with a weight for each head.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_NORMS, Row, Stored, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(rope_theta=500_000.0, logit_scale=0.0625)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, interleaved=True)
    norm = Norm(config.number("layer_norm_eps", 1e-5), "layer")
    normed = "blk.0.attn_q_norm.weight" in config.tensors if gguf else config.flag("use_qk_norm", False)
    head_norm = norm if normed else None
    scale = sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, head_norm, head_norm)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, None, parallel=True)
    # Command-R was made for more than max_position_embeddings, as this says.
    context = max(longest(rope), config.integer("model_max_length", 1))
    tied, output = config.flag("tie_word_embeddings", True), Output(scale=config.number("logit_scale", 1.0))
    spec = ModelSpec("cohere", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied, output=output)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    attention = spec.layers[0].attention
    norms: tuple[Row, ...] = ()
    if attention.query_norm is not None:
        query, key = QUERY_KEY_NORMS
        norms = (_of_each_head(query, "query", attention.heads, attention), _of_each_head(key, "key", attention.kv_heads, attention))
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *norms, *GATED_MLP[1:]))


def _of_each_head(row: Row, width: str, heads: int, attention: Attention) -> Row:
    """The row of a norm whose weights are stored as a matrix [heads, head_dim]."""
    assert isinstance(row.hf, str)
    assert isinstance(row.gguf, str)
    shape = (heads, attention.head_dim)
    return replace(row, hf=Stored(row.hf, shape=shape), gguf=Stored(row.gguf, shape=shape), shape=(width,))
