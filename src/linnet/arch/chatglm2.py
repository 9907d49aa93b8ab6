"""ChatGLM 2 and 3 and GLM-4 (GLM team 2024) as first published, and what GGUF calls "chatglm": Llama's layer, grouped queries, half
of each head rotated by neighbours, and one matrix for queries, keys and values, another for gate and up.

Source: https://huggingface.co/THUDM/chatglm3-6b/blob/main/modeling_chatglm.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.glm4 import gate_up, packed
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, EMBEDDING, FINAL_NORM, GATED_MLP, OUTPUT, Table, biases, renamed
from linnet.errors import UnsupportedModelError

LAYER = "transformer.encoder.layers.{layer}."
PACKED, GATE_UP = "self_attention.query_key_value", "mlp.dense_h_to_4h"
NAMES = (
    *("input_layernorm", PACKED, PACKED, PACKED, "self_attention.dense"),
    *("post_attention_layernorm", GATE_UP, GATE_UP, "mlp.dense_4h_to_h"),
)
"""Of the rows of ATTENTION and GATED_MLP."""
FIXED = {"rmsnorm": True, "post_layer_norm": True, "multi_query_attention": True, "interleaved_qkv": False}
HARMLESS = """
original_rope apply_query_key_layer_scaling attention_softmax_in_fp32 bias_dropout_fusion fp32_residual_connection prefix_projection
"""
"""How the publisher's own code computes the same."""
CONTEXT_2 = 8192
"""Of ChatGLM2-6B, whose long-context version interpolates positions where later ones raise the base."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "hf":
        _translate(config)
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-5))
    rope = read_rope(config, sizes.head_dim, interleaved=True)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    normed = config.flag("apply_residual_connection_post_layernorm", False)
    layer = Layer(attention, Mlp(sizes.width, "silu"), norm, norm, residual="normed" if normed else "input")
    tied = config.flag("tie_word_embeddings", False)
    vocab = config.integer("padded_vocab_size", sizes.vocab)
    spec = ModelSpec("chatglm", vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    if config.format == "gguf":
        return spec, table(spec)
    inside, everywhere = config.flag("add_qkv_bias", False), config.flag("add_bias_linear", False)
    return spec, table(spec, inside or everywhere, everywhere)


def _translate(config: Config) -> None:
    """Puts the words of this configuration into those of the others."""
    for key, value in FIXED.items():
        if config.flag(key, value) is not value:
            raise UnsupportedModelError(f"{config.where}: {key} is {not value}; only {value} runs")
    context, ratio = config.integer("seq_length"), config.number("rope_ratio", 1.0)
    if ratio != 1.0 and (context == CONTEXT_2 * ratio or "chatglm2" in config.text("_name_or_path", "").lower()):
        config.assume(rope_scaling={"rope_type": "linear", "factor": ratio})
    else:
        config.assume(rope_theta=10_000.0 * ratio)
    config.assume(
        vocab_size=config.integer("padded_vocab_size"),
        num_hidden_layers=config.integer("num_layers"),
        num_key_value_heads=config.integer("multi_query_group_num"),
        head_dim=config.integer("kv_channels"),
        intermediate_size=config.integer("ffn_hidden_size"),
        max_position_embeddings=context,
        rms_norm_eps=config.number("layernorm_epsilon", 1e-5),
        partial_rotary_factor=0.5,
    )
    config.ignore(HARMLESS.split())


def table(spec: ModelSpec, attention_bias: bool | None = None, other_bias: bool | None = None) -> Table:
    """Biases: on the packed queries, keys and values, and on the other projections; None: as the checkpoint has them."""
    rows = renamed((*ATTENTION, *GATED_MLP), LAYER, NAMES)
    rows[1:4] = packed(rows[1:4], spec, f"{LAYER}{PACKED}.weight")
    rows[6:8] = gate_up(rows[6:8], spec, f"{LAYER}{GATE_UP}.weight")
    rows += [*biases(rows[1:4], attention_bias), *biases((rows[4], *rows[6:]), other_bias)]
    embedding = replace(EMBEDDING, hf="transformer.embedding.word_embeddings.weight")
    rows = [embedding, *rows, replace(FINAL_NORM, hf="transformer.encoder.final_layernorm.weight")]
    output = replace(OUTPUT, hf="transformer.output_layer.weight")
    ignored = ("*.rotary_pos_emb.inv_freq", "rope_freqs.weight")
    return Table(tuple(rows), (*ignored, "transformer.output_layer.weight")) if spec.tied else Table((*rows, output), ignored)
