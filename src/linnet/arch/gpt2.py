"""GPT-2 (Radford et al. 2019): learned positions, layer norms, and matrices that Hugging Face stores [in, out]."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.plain import GPT_KEYS, PLAIN_LAYER, SUMMARY, in_one_tensor, plain_table, read_plain
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Positions
from linnet.arch.table import Row, Stored, Table, biases, renamed

C_ATTN = "attn.c_attn"
NAMES = ("ln_1", C_ATTN, C_ATTN, C_ATTN, "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
"""Of the rows of PLAIN_LAYER."""
OUTER = ("transformer.wte", "transformer.ln_f", "lm_head")
POSITIONS = Row("positions", "transformer.wpe.weight", "position_embd.weight", ("positions", "hidden"))


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(**GPT_KEYS)
    config.assume(hidden_act="gelu_new", tie_word_embeddings=True)
    config.ignore(["n_ctx", "reorder_and_upcast_attn", *SUMMARY])  # the same number as n_positions; the order of two roundings
    sizes, norm = read_plain(config)
    context = config.integer("max_position_embeddings")
    scale = sizes.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    mlp = Mlp(sizes.width, config.activation(), gated=False)
    layers = tuple(
        Layer(Attention(sizes.heads, sizes.heads, sizes.head_dim, (), scale / (index + 1 if by_layer else 1)), mlp, norm, norm)
        for index in range(sizes.layers)
    )
    embedding = Embedding(positions=Positions(context))
    tied = config.flag("tie_word_embeddings", True)
    spec = ModelSpec("gpt2", sizes.vocab, sizes.hidden, context, layers, norm, tied, embedding)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    rows = renamed(PLAIN_LAYER, "transformer.h.{layer}.", NAMES)
    rows = in_one_tensor(rows, spec, "transformer.h.{layer}.attn.c_attn.weight", grouped=False)
    rows = [_transposed(row) if row.field.endswith(".matrix") else row for row in rows]
    return plain_table(spec, [POSITIONS, *rows, *biases(rows)], OUTER, "transformer.", ignored=("*.attn.bias", "*.attn.masked_bias"))


def _transposed(row: Row) -> Row:
    if isinstance(row.hf, Stored):
        return replace(row, hf=replace(row.hf, transposed=True))
    return replace(row, hf=Stored(str(row.hf), transposed=True))
