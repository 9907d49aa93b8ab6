"""InternLM 2 and 2.5 (Cai et al. 2024): Llama under other names, the queries, key and value of each KV head side by side.

Source: https://huggingface.co/internlm/internlm2-chat-7b/blob/main/modeling_internlm2.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, EMBEDDING, FINAL_NORM, GATED_MLP, OUTPUT, Table, biases, renamed, split_rows

WQKV = "attention.wqkv"
NAMES = ("attention_norm", WQKV, WQKV, WQKV, "attention.wo", "ffn_norm", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
"""Of the rows of ATTENTION and GATED_MLP."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    spec = llama_spec(config, "internlm2", None)
    return spec, table(spec, config.format == "hf" and config.flag("bias", True))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the projections of attention, on none, or (None) as the checkpoint has them."""
    rows = renamed((*ATTENTION, *GATED_MLP), "model.layers.{layer}.", NAMES)
    attention = spec.layers[0].attention
    widths = attention.query_width // attention.kv_heads, attention.head_dim, attention.head_dim
    packed = split_rows(f"model.layers.{{layer}}.{WQKV}.weight", widths, attention.kv_heads)
    rows[1:4] = [replace(row, hf=stored) for row, stored in zip(rows[1:4], packed, strict=True)]
    embedding, output = replace(EMBEDDING, hf="model.tok_embeddings.weight"), replace(OUTPUT, hf="output.weight")
    rows = [embedding, *rows, *biases(rows[1:5], attention_bias), FINAL_NORM]
    ignored = ("*.rotary_emb.inv_freq", "rope_freqs.weight")
    return Table(tuple(rows), (*ignored, "output.weight")) if spec.tied else Table((*rows, output), ignored)
