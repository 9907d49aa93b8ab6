"""Tables of weights: which tensor of a checkpoint is which field of `linnet.weights`, and of what shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, TypeAlias

from linnet.arch.spec import Attention, GatedDeltaNet, Latent, Layer, Mixer, Mlp, ModelSpec, Moe


@dataclass(frozen=True)
class Part:
    """Every `step`th of the rows [start, stop) of each of `groups` equal runs of `rows` rows: what a field takes of a tensor that
    holds several, as queries, keys and values in one. A vector's entries count as rows."""

    start: int
    stop: int
    rows: int
    groups: int = 1
    step: int = 1


@dataclass(frozen=True)
class Stored:
    """How a file stores a field, where that is more than a name.

    part: the rows it takes; None: all. transposed: stored [in, out] (GPT-2); block types become float32. plus: is added on
    loading, in float32 (Gemma stores norm weights less 1). unit_rows: each row is divided by its length on loading (Baichuan 2's
    output). by_layer: the tensor is a vector with an entry for every layer, of which the field is one (nanochat).
    shape: in the file, where that splits or joins axes: GGUF has a matrix of one row as a vector, and some projections as a
    matrix for each head, each transposed if `transposed`; None: the field's own.
    apply: what is done to a vector's entries on loading, in float32.
    """

    name: str
    part: Part | None = None
    transposed: bool = False
    plus: float = 0.0
    unit_rows: bool = False
    by_layer: bool = False
    shape: tuple[int, ...] | None = None
    apply: Literal["exp", "negative"] | None = None


How: TypeAlias = str | Stored
"""How a field is stored: a name, where that says all."""


@dataclass(frozen=True)
class Row:
    """One tensor of a family.

    field: of `Weights` ("embedding", "final_norm.weight"), or of every layer: "layers." and a path through `LayerWeights`
        ("layers.attention.query.matrix", "layers.mlp_norm.weight").
    hf, gguf: how either kind of checkpoint stores it; "{layer}" in the name stands for the number of the layer, "{expert}" for that
        of an expert, where each has a tensor of its own, and "{head}" for that of a head, whose tensors lie under each other.
        Several: the first that the checkpoint has. None: such files do not have it.
    shape: symbols that `dimensions` resolves, or numbers; two for a matrix [out, in], one for a vector, three for a stack
        [experts, out, in] (of a bias: two).
    optional: whether a checkpoint may lack it.
    when: the layers that have it; None: all.
    """

    field: str
    hf: How | tuple[How, ...] | None
    gguf: How | tuple[How, ...] | None
    shape: tuple[str | int, ...]
    optional: bool = False
    when: Callable[[Layer], bool] | None = None

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
    mlp = layer.mlp
    sizes = {
        "vocab": spec.vocab_size,
        "hidden": spec.hidden,
        "embedding": spec.hidden if spec.embedding.width is None else spec.embedding.width,
        "layers": len(spec.layers),
        **_mixer_dimensions(layer.mixer),
    }
    if layer.per_layer is not None:
        sizes |= {"per_layer": layer.per_layer.width, "all_layers": layer.per_layer.width * len(spec.layers)}
    if spec.embedding.positions is not None:
        sizes["positions"] = spec.embedding.positions.count
    dense = mlp.shared if isinstance(mlp, Moe) else mlp
    if dense is not None:
        sizes["width"] = dense.width
    if isinstance(mlp, Moe):
        sizes |= {"experts": mlp.experts, "expert_width": mlp.expert.width}
    return sizes


def _mixer_dimensions(mixer: Mixer) -> dict[str, int]:
    if isinstance(mixer, Attention):
        sizes = {
            "query": mixer.query_width,
            "key": mixer.key_width,
            "value": mixer.value_width,
            "attention": mixer.output_width,
            "head": mixer.head_dim,
            "heads": mixer.heads,
            "kv_heads": mixer.kv_heads,
        }
        return sizes if mixer.latent is None else sizes | _latent_dimensions(mixer.latent, mixer.kv_heads, mixer.head_dim)
    if isinstance(mixer, GatedDeltaNet):
        sizes = {"key": mixer.key_width, "value": mixer.value_width, "value_head": mixer.value_dim, "value_heads": mixer.value_heads}
        return {**sizes, "taps": mixer.taps}
    return {"convolved": mixer.width, "taps": mixer.taps}


def _latent_dimensions(latent: Latent, kv_heads: int, head_dim: int) -> dict[str, int]:
    return {
        "rank": latent.rank,
        "query_rank": latent.query_rank or 0,
        "shared_key": latent.rope_dim,
        "key": kv_heads * (head_dim - latent.rope_dim),  # of what is projected for each head; the shared part comes after it
    }


def has_attention(layer: Layer) -> bool:
    return isinstance(layer.mixer, Attention)


def is_dense(layer: Layer) -> bool:
    return isinstance(layer.mlp, Mlp)


def is_moe(layer: Layer) -> bool:
    return isinstance(layer.mlp, Moe)


EMBEDDING = Row("embedding", "model.embed_tokens.weight", "token_embd.weight", ("vocab", "embedding"))
OUTPUT = Row("output.matrix", "lm_head.weight", "output.weight", ("vocab", "embedding"))
FINAL_NORM = Row("final_norm.weight", "model.norm.weight", "output_norm.weight", ("hidden",))


def layer_row(field: str, hf: str | None, gguf: str | None, *shape: str | int) -> Row:
    """A row of every layer, its names in the way of Llama: `model.layers.N.HF.weight` and `blk.N.GGUF.weight`."""
    return Row(
        f"layers.{field}",
        hf and f"model.layers.{{layer}}.{hf}.weight",
        gguf and f"blk.{{layer}}.{gguf}.weight",
        shape,
    )


ATTENTION = (
    layer_row("attention_norm.weight", "input_layernorm", "attn_norm", "hidden"),
    layer_row("attention.query.matrix", "self_attn.q_proj", "attn_q", "query", "hidden"),
    layer_row("attention.key.matrix", "self_attn.k_proj", "attn_k", "key", "hidden"),
    layer_row("attention.value.matrix", "self_attn.v_proj", "attn_v", "value", "hidden"),
    layer_row("attention.output.matrix", "self_attn.o_proj", "attn_output", "hidden", "attention"),
)
QUERY_KEY_VALUE = ATTENTION[1:4]
GATED_MLP = (
    layer_row("mlp_norm.weight", "post_attention_layernorm", "ffn_norm", "hidden"),
    layer_row("mlp.gate.matrix", "mlp.gate_proj", "ffn_gate", "width", "hidden"),
    layer_row("mlp.up.matrix", "mlp.up_proj", "ffn_up", "width", "hidden"),
    layer_row("mlp.down.matrix", "mlp.down_proj", "ffn_down", "hidden", "width"),
)
QUERY_KEY_NORMS = (
    layer_row("attention.query_norm.weight", "self_attn.q_norm", "attn_q_norm", "head"),
    layer_row("attention.key_norm.weight", "self_attn.k_norm", "attn_k_norm", "head"),
)


def split_rows(name: str, widths: Sequence[int], groups: int = 1) -> list[Stored]:
    """How fields are stored that one tensor holds one after another, so many rows each, in each of `groups` equal runs."""
    ends = list(accumulate(widths))
    return [Stored(name, Part(end - width, end, ends[-1], groups)) for width, end in zip(widths, ends, strict=True)]


def renamed(rows: Iterable[Row], prefix: str, names: Iterable[str]) -> list[Row]:
    """The rows under other names in Hugging Face checkpoints: prefix + name + ".weight"."""
    return [replace(row, hf=f"{prefix}{name}.weight") for row, name in zip(rows, names, strict=True)]


def standard_table(
    spec: ModelSpec, layer_rows: Iterable[Row], names: tuple[str, str, str] | None = None, ignored: Iterable[str] = ()
) -> Table:
    """The rows that most decoders share (embedding, final norm, output unless tied) around those of the layers. names: theirs in
    Hugging Face checkpoints, where not Llama's. ignored: patterns of further tensors that are not needed."""
    embedding, final_norm, output = (
        (EMBEDDING, FINAL_NORM, OUTPUT) if names is None else renamed((EMBEDDING, FINAL_NORM, OUTPUT), "", names)
    )
    rows = [embedding, *layer_rows, *([] if spec.final_norm is None else [final_norm])]
    unneeded = ["*.rotary_emb.inv_freq", "rope_freqs.weight", *ignored]  # recomputed here, or part of the spec
    if spec.tied:
        unneeded.append(str(output.hf))  # some checkpoints store the embedding twice
    else:
        rows.append(output)
    return Table(tuple(rows), tuple(unneeded))


def or_prefixed(table: Table, prefix: str, instead: str = "") -> Table:
    """The table of checkpoints whose Hugging Face names may begin with `instead` in place of `prefix`: with nothing, where the
    model was saved without the part that gives logits."""

    def other(how: How) -> How:
        name = how if isinstance(how, str) else how.name
        name = instead + name.removeprefix(prefix) if name.startswith(prefix) else name
        return name if isinstance(how, str) else replace(how, name=name)

    def ways(hf: How | tuple[How, ...] | None) -> How | tuple[How, ...] | None:
        if hf is None:
            return None
        given = hf if isinstance(hf, tuple) else (hf,)
        found = tuple(dict.fromkeys((*given, *map(other, given))))
        return found if len(found) > 1 else found[0]

    return replace(table, rows=tuple(replace(row, hf=ways(row.hf)) for row in table.rows))


def biases(rows: Iterable[Row], present: bool | None = True, of: Literal["matrix", "weight"] = "matrix") -> tuple[Row, ...]:
    """The bias rows that go with those of `rows` that are matrices (or norm weights): all there, none there, or (None) whichever
    the checkpoint has."""
    if present is False:
        return ()
    return tuple(
        replace(
            row,
            field=row.field.rpartition(".")[0] + ".bias",
            hf=_bias_name(row.hf),
            gguf=_bias_name(row.gguf),
            shape=row.shape[:-1] if of == "matrix" else row.shape,
            optional=present is None,
        )
        for row in rows
        if row.field.endswith("." + of)
    )


def _bias_name(stored: How | tuple[How, ...] | None) -> How | tuple[How, ...] | None:
    if isinstance(stored, tuple):
        return tuple(_bias_of(how) for how in stored)
    return stored and _bias_of(stored)


def _bias_of(stored: How) -> How:
    if isinstance(stored, Stored):
        return replace(stored, name=stored.name.replace(".weight", ".bias"), transposed=False, plus=0.0)
    return stored.replace(".weight", ".bias")
