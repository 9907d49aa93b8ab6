"""Latent attention (DeepSeek V2, 2024): its settings and its rows."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import read_rope, score_factor
from linnet.arch.sizes import MAX_HEAD_DIM
from linnet.arch.spec import Attention, Latent, Norm
from linnet.arch.table import ATTENTION, Part, Row, Stored, biases, layer_row

_HF = "model.layers.{layer}.self_attn"


def read_attention(config: Config, norm: Norm) -> Attention:
    """Attention with every head's keys and values written out; `norm` is of what the narrow projections give."""
    heads = config.integer("num_attention_heads")
    if config.format == "hf":
        rotated, plain = (config.integer(key, high=MAX_HEAD_DIM // 2) for key in ("qk_rope_head_dim", "qk_nope_head_dim"))
        head_dim, value_dim = rotated + plain, config.integer("v_head_dim", high=MAX_HEAD_DIM)
        if config.integer("num_key_value_heads", heads) != heads:
            raise config.error("num_key_value_heads", f"as many as {config.name('num_attention_heads')} ({heads})")
        config.ignore(["head_dim", "qk_head_dim"])  # transformers writes what they come to
        by_neighbours = config.flag("rope_interleave", True)
    else:  # in newer files key_length and value_length are those of compressed pages
        head_dim = config.integer("qk_head_dim", config.integer("head_dim"), high=MAX_HEAD_DIM)
        value_dim = config.integer("v_head_dim", config.integer("value_head_dim"), high=MAX_HEAD_DIM)
        rotated = config.integer("rope_dim", high=head_dim - 1)
        config.ignore(["num_key_value_heads"])
        by_neighbours = True
    if rotated % 2:
        raise config.error("qk_rope_head_dim" if config.format == "hf" else "rope_dim", "an even number")
    latent = Latent(config.integer("kv_lora_rank"), rotated, norm, config.optional_integer("q_lora_rank"))
    rope = replace(read_rope(config, rotated, interleaved=by_neighbours), start=head_dim - rotated)
    scale = head_dim**-0.5 * score_factor(config, rope)
    return Attention(heads, heads, head_dim, (rope,), scale, value_dim=value_dim, latent=latent)


def latent_rows(attention: Attention, bias: bool | None) -> tuple[Row, ...]:
    """Biases: on the first and last projections, on none, or (None) as the checkpoint has them."""
    latent = attention.latent
    assert latent is not None
    ends = (*_queries(latent)[:1], *_down(latent), ATTENTION[4]) if latent.query_rank else (*_down(latent), ATTENTION[4])
    norm = layer_row("attention.key_value_norm.weight", "self_attn.kv_a_layernorm", "attn_kv_a_norm", "rank")
    return (ATTENTION[0], *_queries(latent), *_down(latent), norm, *_up(attention, latent), ATTENTION[4], *biases(ends, bias))


def _queries(latent: Latent) -> tuple[Row, ...]:
    if latent.query_rank is None:
        return (ATTENTION[1],)
    return (
        layer_row("attention.query_down.matrix", "self_attn.q_a_proj", "attn_q_a", "query_rank", "hidden"),
        layer_row("attention.query_down_norm.weight", "self_attn.q_a_layernorm", "attn_q_a_norm", "query_rank"),
        layer_row("attention.query.matrix", "self_attn.q_b_proj", "attn_q_b", "query", "query_rank"),
    )


def _down(latent: Latent) -> tuple[Row, ...]:
    """One tensor makes both what keys and values come from and the key part that heads share."""
    whole = latent.rank + latent.rope_dim

    def row(field: str, size: str, part: Part) -> Row:
        hf, gguf = (Stored(name, part) for name in (f"{_HF}.kv_a_proj_with_mqa.weight", "blk.{layer}.attn_kv_a_mqa.weight"))
        return Row(f"layers.attention.{field}.matrix", hf, gguf, (size, "hidden"))

    return (row("key_value_down", "rank", Part(0, latent.rank, whole)), row("shared_key", "shared_key", Part(latent.rank, whole, whole)))


def _up(attention: Attention, latent: Latent) -> tuple[Row, ...]:
    """One tensor makes every head's keys and values; newer GGUF files have it split, with the keys' matrices transposed."""
    heads, plain, value = attention.kv_heads, attention.head_dim - latent.rope_dim, attention.value_head_dim

    def row(field: str, part: Part, split: Stored) -> Row:
        hf, gguf = (Stored(name, part) for name in (f"{_HF}.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight"))
        return Row(f"layers.attention.{field}.matrix", hf, (gguf, split), (field, "rank"))

    keys = Stored("blk.{layer}.attn_k_b.weight", transposed=True, shape=(heads, latent.rank, plain))
    values = Stored("blk.{layer}.attn_v_b.weight", shape=(heads, value, latent.rank))
    rows = plain + value
    return (row("key", Part(0, plain, rows, heads), keys), row("value", Part(plain, rows, rows, heads), values))
