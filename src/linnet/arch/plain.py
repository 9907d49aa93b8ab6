"""What GPT-2 and its successors share: layer norms, biases, and a feed-forward block without a gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.sizes import Sizes, read_sizes
from linnet.arch.spec import ModelSpec, Norm
from linnet.arch.table import (
    ATTENTION,
    FINAL_NORM,
    GATED_MLP,
    Row,
    Table,
    biases,
    or_prefixed,
    renamed,
    split_rows,
    standard_table,
)

PLAIN_LAYER = (*ATTENTION, GATED_MLP[0], *GATED_MLP[2:])
"""The norm, query, key, value and output of attention; the norm, up and down of the feed-forward block."""

GPT_KEYS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
}
"""What GPT-2 calls the usual keys."""

SUMMARY = "summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj".split()
"""Keys of a head that sums a text up, which configurations of language models have too."""


def read_plain(config: Config) -> tuple[Sizes, Norm]:
    """Sizes and norm; a feed-forward block is four times as wide as the hidden size unless the configuration says otherwise."""
    config.assume(intermediate_size=4 * config.integer("hidden_size"))
    return read_sizes(config), Norm(config.number("layer_norm_eps", 1e-5), "layer")


def in_one_tensor(rows: list[Row], spec: ModelSpec, hf: str, grouped: bool) -> list[Row]:
    """The rows of PLAIN_LAYER where one tensor holds queries, keys and values: one after another, as in GGUF files, or, `grouped`,
    the queries that share a KV head followed by its key and value."""
    attention = spec.layers[0].attention
    widths = attention.query_width, attention.key_width, attention.value_width
    groups = attention.kv_heads if grouped else 1
    ours = split_rows(hf, [width // groups for width in widths], groups)
    ggufs = split_rows("blk.{layer}.attn_qkv.weight", widths)
    packed = [replace(row, hf=hf, gguf=gguf) for row, hf, gguf in zip(rows[1:4], ours, ggufs, strict=True)]
    return [rows[0], *packed, *rows[4:]]


def plain_table(spec: ModelSpec, rows: Iterable[Row], names: tuple[str, str, str], prefix: str, ignored: Iterable[str] = ()) -> Table:
    """The rows with norms' biases and, around them, embedding, final norm and output, which Hugging Face calls `names`."""
    norms = [row for row in rows if row.field.endswith("norm.weight")]
    if spec.final_norm is not None:
        norms += renamed([FINAL_NORM], "", names[1:2])
    return or_prefixed(standard_table(spec, [*rows, *biases(norms, of="weight")], names, ignored), prefix)
