"""Tables of weights: which tensor of a checkpoint is which field of `linnet.weights`, and of what shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from linnet.arch.spec import Layer, ModelSpec


@dataclass(frozen=True)
class Row:
    """One tensor of a family.

    field: of `Weights` ("embedding"), or of every layer: "layers." and a vector of `LayerWeights` ("layers.mlp_norm")
        or a part of a projection ("layers.query.matrix", "layers.query.bias").
    hf, gguf: its name in either kind of checkpoint, "{layer}" standing for the number of the layer.
    shape: symbols that `dimensions` resolves; two for a matrix [out, in], one for a vector.
    optional: whether a checkpoint may lack it.
    """

    field: str
    hf: str
    gguf: str
    shape: tuple[str, ...]
    optional: bool = False

    @property
    def per_layer(self) -> bool:
        return self.field.startswith("layers.")


@dataclass(frozen=True)
class Table:
    """The rows of one model, and patterns (fnmatch, either naming) of tensors that may be there and are not needed."""

    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()


def dimensions(spec: ModelSpec, layer: Layer) -> dict[str, int]:
    """What the symbols in `Row.shape` stand for in one layer."""
    return {
        "vocab": spec.vocab_size,
        "hidden": spec.hidden,
        "query": layer.attention.query_width,
        "key": layer.attention.kv_width,
        "value": layer.attention.kv_width,
        "head": layer.attention.head_dim,
        "width": layer.mlp.width,
    }


EMBEDDING = Row("embedding", "model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden"))
OUTPUT = Row("output", "lm_head.weight", "output.weight", ("vocab", "hidden"))


def _layer_row(field: str, hf: str, gguf: str, *shape: str) -> Row:
    return Row(f"layers.{field}", f"model.layers.{{layer}}.{hf}.weight", f"blk.{{layer}}.{gguf}.weight", shape)


ATTENTION = (
    _layer_row("attention_norm", "input_layernorm", "attn_norm", "hidden"),
    _layer_row("query.matrix", "self_attn.q_proj", "attn_q", "query", "hidden"),
    _layer_row("key.matrix", "self_attn.k_proj", "attn_k", "key", "hidden"),
    _layer_row("value.matrix", "self_attn.v_proj", "attn_v", "value", "hidden"),
    _layer_row("attention_output.matrix", "self_attn.o_proj", "attn_output", "hidden", "query"),
)
GATED_MLP = (
    _layer_row("mlp_norm", "post_attention_layernorm", "ffn_norm", "hidden"),
    _layer_row("gate.matrix", "mlp.gate_proj", "ffn_gate", "width", "hidden"),
    _layer_row("up.matrix", "mlp.up_proj", "ffn_up", "width", "hidden"),
    _layer_row("down.matrix", "mlp.down_proj", "ffn_down", "hidden", "width"),
)
QUERY_KEY_NORMS = (
    _layer_row("query_norm", "self_attn.q_norm", "attn_q_norm", "head"),
    _layer_row("key_norm", "self_attn.k_norm", "attn_k_norm", "head"),
)


def standard_table(spec: ModelSpec, layer_rows: Iterable[Row]) -> Table:
    """The rows that most decoders share (embedding, final norm, output unless tied) around those of the layers."""
    rows = [EMBEDDING, *layer_rows, Row("final_norm", "model.norm.weight", "output_norm.weight", ("hidden",))]
    ignored = ["*.rotary_emb.inv_freq", "rope_freqs.weight"]  # recomputed here, or part of the spec
    if spec.tied:
        ignored.append(OUTPUT.hf)  # some checkpoints store the embedding twice
    else:
        rows.append(OUTPUT)
    return Table(tuple(rows), tuple(ignored))


def biases(matrices: Iterable[Row], present: bool | None) -> tuple[Row, ...]:
    """The bias rows of projections: all there, none there, or (None) whichever the checkpoint has."""
    if present is False:
        return ()
    return tuple(
        replace(
            row,
            field=row.field.replace(".matrix", ".bias"),
            hf=row.hf.replace(".weight", ".bias"),
            gguf=row.gguf.replace(".weight", ".bias"),
            shape=row.shape[:1],
            optional=present is None,
        )
        for row in matrices
        if row.field.endswith(".matrix")
    )
