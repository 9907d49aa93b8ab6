"""OPT (Zhang et al. 2022) and Galactica: GPT-3's decoder. The 350M model normalises sums in place of what goes into each block, and has
an embedding narrower than its layers."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, plain_table, read_plain
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Positions
from linnet.arch.table import Row, Table, biases, renamed

OFFSET = 2
"""Rows of the table of positions before that of the first."""

NAMES = (
    "self_attn_layer_norm",
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    "final_layer_norm",
    *("fc1", "fc2"),
)
"""Of the rows of PLAIN_LAYER."""
SUM_NORMS = {"layers.attention_norm.weight": "layers.attention_sum_norm.weight", "layers.mlp_norm.weight": "layers.mlp_sum_norm.weight"}
DECODER = "model.decoder."
OUTER = (f"{DECODER}embed_tokens", f"{DECODER}final_layer_norm", "lm_head")
POSITIONS = Row("positions", f"{DECODER}embed_positions.weight", None, ("positions", "hidden"))
PROJECTIONS = (
    Row("embedding_projection.matrix", f"{DECODER}project_in.weight", None, ("hidden", "embedding")),
    Row("output_projection.matrix", f"{DECODER}project_out.weight", None, ("embedding", "hidden")),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(intermediate_size="ffn_dim", hidden_act="activation_function")
    config.assume(hidden_act="relu")
    config.ignore(["init_std", "layerdrop", "learned_embeddings"])
    sizes, norm = read_plain(config)
    context = config.integer("max_position_embeddings")
    attention = Attention(sizes.heads, sizes.heads, sizes.head_dim, (), sizes.head_dim**-0.5)
    mlp = Mlp(sizes.width, config.activation(), gated=False)
    before = config.flag("do_layer_norm_before", True)
    layer = Layer(attention, mlp, norm, norm) if before else Layer(attention, mlp, None, None, attention_sum_norm=norm, mlp_sum_norm=norm)
    removed = config.flag("_remove_final_layer_norm", False)
    final_norm = norm if before and not removed else None
    width = config.integer("word_embed_proj_dim", sizes.hidden)
    embedding = Embedding(positions=Positions(context + OFFSET, offset=OFFSET), width=None if width == sizes.hidden else width)
    tied = config.flag("tie_word_embeddings", True)
    spec = ModelSpec("opt", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, final_norm, tied, embedding)
    return spec, table(spec, config.flag("enable_bias", True), config.flag("layer_norm_elementwise_affine", True))


def table(spec: ModelSpec, linear_biases: bool | None = None, affine: bool | None = None) -> Table:
    """Biases on every projection, and weights and biases of norms: all there, none there, or (None) as the checkpoint has them."""
    rows = renamed(PLAIN_LAYER, f"{DECODER}layers.{{layer}}.", NAMES)
    rows += biases(rows, linear_biases)
    if spec.layers[0].attention_norm is None:
        rows = [replace(row, field=SUM_NORMS.get(row.field, row.field)) for row in rows]
    projections = () if spec.embedding.width is None else PROJECTIONS
    made = plain_table(spec, [POSITIONS, *projections, *rows], OUTER, "model.", ignored=("*decoder.version",))
    kept = [row for row in made.rows if affine is not False or "norm" not in row.field]
    return replace(made, rows=tuple(replace(row, optional=True) if affine is None and "norm" in row.field else row for row in kept))
