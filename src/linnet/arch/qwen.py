"""Qwen (Bai et al. 2023), the first: Llama's layer with queries, keys and values in one matrix with a bias; its w2 is the gate.

Beyond the length that it was trained on the model stretches its rotary base (use_dynamic_ntk) and its queries (use_logn_attn). That
is not built: a checkpoint that asks for it runs up to seq_length tokens, which neither changes. GGUF says nothing of either.
Source: https://huggingface.co/Qwen/Qwen-7B/blob/main/modeling_qwen.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, EMBEDDING, FINAL_NORM, GATED_MLP, OUTPUT, Table, biases, renamed, split_rows

C_ATTN = "attn.c_attn"
NAMES = ("ln_1", C_ATTN, C_ATTN, C_ATTN, "attn.c_proj", "ln_2", "mlp.w2", "mlp.w1", "mlp.c_proj")
"""Of the rows of ATTENTION and GATED_MLP."""
HARMLESS = "bf16 fp16 fp32 emb_dropout_prob attn_dropout_prob scale_attn_weights softmax_in_fp32 use_cache_quantization use_cache_kernel"
"""Types, training, how the publisher's own code stores its cache, and what it does in any case."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    trained = _translate(config) if config.format == "hf" else None
    sizes = read_sizes(config)
    if sizes.width % 2:
        raise config.error("intermediate_size", "an even number (twice the width of the feed-forward block)")
    norm, rope = Norm(config.number("rms_norm_eps", 1e-6)), read_rope(config, sizes.head_dim)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    layer = Layer(attention, Mlp(sizes.width // 2, "silu"), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("qwen", sizes.vocab, sizes.hidden, trained or longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, config.format == "hf" and not config.flag("no_bias", True))


def _translate(config: Config) -> int | None:
    """Puts the words of this configuration into those of the others; gives the length where stretching would begin, if it does."""
    trained = config.integer("seq_length")
    config.assume(
        max_position_embeddings=trained,
        head_dim=config.integer("kv_channels"),
        rms_norm_eps=config.number("layer_norm_epsilon", 1e-6),
        rope_theta=config.number("rotary_emb_base", 10_000.0, low=1.0),
        partial_rotary_factor=config.number("rotary_pct", 1.0, high=1.0),
    )
    config.ignore(HARMLESS.split())
    stretched = [config.flag(name, True) for name in ("use_dynamic_ntk", "use_logn_attn")]
    return trained if any(stretched) else None


def table(spec: ModelSpec, other_biases: bool | None = None) -> Table:
    """other_biases: on every projection but those of queries, keys and values, on none, or (None) as the checkpoint has them."""
    rows = renamed((*ATTENTION, *GATED_MLP), "transformer.h.{layer}.", NAMES)
    attention = spec.layers[0].attention
    widths = attention.query_width, attention.key_width, attention.value_width
    packed = [split_rows(name, widths) for name in (f"transformer.h.{{layer}}.{C_ATTN}.weight", "blk.{layer}.attn_qkv.weight")]
    rows[1:4] = [replace(row, hf=hf, gguf=gguf) for row, hf, gguf in zip(rows[1:4], *packed, strict=True)]
    rows += [*biases(rows[1:4]), *biases((rows[4], *rows[6:]), other_biases)]
    rows = [replace(EMBEDDING, hf="transformer.wte.weight"), *rows, replace(FINAL_NORM, hf="transformer.ln_f.weight")]
    ignored = ("*.rotary_emb.inv_freq", "*.masked_bias", "rope_freqs.weight")
    return Table(tuple(rows), (*ignored, "lm_head.weight")) if spec.tied else Table((*rows, OUTPUT), ignored)
