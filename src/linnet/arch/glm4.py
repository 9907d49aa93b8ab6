"""GLM-4 (GLM team 2024) as transformers has it: "glm" (9B of June 2024) and "glm4" (April 2025), which also normalises what comes
out of attention and feed-forward block. Half of each head rotates, by neighbours; gate and up are one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Row, Table, biases, layer_row, split_rows, standard_table

POST_NORMS = (
    layer_row("attention_post_norm.weight", "post_self_attn_layernorm", "post_attention_norm", "hidden"),
    layer_row("mlp_post_norm.weight", "post_mlp_layernorm", "post_ffw_norm", "hidden"),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    family = config.text("model_type")
    if config.format == "hf":
        config.assume(partial_rotary_factor=0.5, num_key_value_heads=2, head_dim=128)
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1.5625e-07))
    rope = read_rope(config, sizes.head_dim, interleaved=True)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    post_norm = norm if family == "glm4" else None
    mlp = Mlp(sizes.width, config.activation())
    layer = Layer(attention, mlp, norm, norm, attention_post_norm=post_norm, mlp_post_norm=post_norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, config.flag("attention_bias", True) if config.format == "hf" else None)


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """attention_bias: on queries, keys and values, on none, or (None) as the checkpoint has them."""
    query_key_value = packed(ATTENTION[1:4], spec)
    gate_and_up = gate_up(GATED_MLP[1:3], spec, "model.layers.{layer}.mlp.gate_up_proj.weight")
    rows = [ATTENTION[0], *query_key_value, ATTENTION[4], GATED_MLP[0], *gate_and_up, GATED_MLP[3]]
    post_norms = POST_NORMS if spec.layers[0].attention_post_norm else ()
    return standard_table(spec, (*rows, *biases(query_key_value, attention_bias), *post_norms))


def packed(rows: Sequence[Row], spec: ModelSpec, hf: str | None = None) -> list[Row]:
    """The rows of queries, keys and values as they are stored: in one matrix, called `hf`, or (None) each by itself; in GGUF in
    one or each by itself, as the file was made of."""
    attention = spec.layers[0].attention
    widths = attention.query_width, attention.key_width, attention.value_width
    made = []
    for index, (row, letter) in enumerate(zip(rows, "qkv", strict=True)):
        joined = split_rows("blk.{layer}.attn_qkv.weight", widths)[index]
        row = replace(row, gguf=(joined, f"blk.{{layer}}.attn_{letter}.weight"))
        made.append(replace(row, hf=split_rows(hf, widths)[index]) if hf else row)
    return made


def gate_up(rows: Sequence[Row], spec: ModelSpec, hf: str) -> list[Row]:
    """The rows of gate and up as they are stored: in one matrix, called `hf`."""
    mlp = spec.layers[0].mlp
    assert isinstance(mlp, Mlp)
    parts = (split_rows(name, (mlp.width, mlp.width)) for name in (hf, "blk.{layer}.ffn_up.weight"))
    return [replace(row, hf=hf, gguf=gguf) for row, hf, gguf in zip(rows, *parts, strict=True)]
