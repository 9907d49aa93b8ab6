"""Gemma (Gemma Team 2024): Llama's layer with a GELU gate, on embeddings times the root of their width.

Its checkpoints store the weights of norms less 1; GGUF files store them whole.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Row, Stored, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    config.assume(hidden_act="gelu_pytorch_tanh")
    if not gguf:
        config.assume(num_key_value_heads=16, head_dim=256)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    activation = config.activation()
    # The first release says "gelu" and means its approximation.
    layer = Layer(attention, Mlp(sizes.width, "gelu_tanh" if activation == "gelu" else activation), norm, norm)
    tied = config.flag("tie_word_embeddings", True)
    embedding = Embedding(scale=sizes.hidden**0.5)
    spec = ModelSpec("gemma", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied, embedding)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return less_one(standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *GATED_MLP)))


def less_one(table: Table) -> Table:
    """The table where Hugging Face checkpoints store the weights of norms less 1."""
    return replace(table, rows=tuple(_less_one(row) if row.field.endswith("norm.weight") else row for row in table.rows))


def _less_one(row: Row) -> Row:
    assert isinstance(row.hf, str)
    return replace(row, hf=Stored(row.hf, plus=1.0))
