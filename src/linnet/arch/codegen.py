"""CodeGen (Nijkamp et al. 2022), and MOSS-moon (Sun et al. 2024), which is of the same shape: GPT-J's layer, with queries, values and
keys in one matrix, in this order within each of four groups of heads."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_spec import Rope
from linnet.arch.sizes import MAX_HEAD_DIM, MAX_LAYERS
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, EMBEDDING, FINAL_NORM, OUTPUT, QUERY_KEY_VALUE, Row, Table, biases, renamed, split_rows

GROUPS = 4
"""As many as the processors that CodeGen was trained on worked side by side."""
LAYER = "transformer.h.{layer}."
UNREAD = "n_ctx scale_attn_weights summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"
"""Keys that neither model's own code looks at."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(activation_function="gelu_new")
    config.ignore(UNREAD.split())
    hidden, heads = config.integer("n_embd"), config.integer("n_head")
    if heads % GROUPS or hidden % heads or hidden // heads > MAX_HEAD_DIM:
        raise config.error("n_head", f"a multiple of {GROUPS} that divides n_embd ({hidden}) into heads of at most {MAX_HEAD_DIM}")
    head_dim = hidden // heads
    rotated, context = config.integer("rotary_dim", 64, high=head_dim), config.integer("n_positions", 2048)
    if rotated % 2:
        raise config.error("rotary_dim", "an even number")
    norm = Norm(config.number("layer_norm_epsilon", 1e-5), "layer")
    attention = Attention(heads, heads, head_dim, (Rope(rotated, 10_000.0, context, interleaved=True),), head_dim**-0.5)
    mlp = Mlp(config.integer("n_inner", 4 * hidden), config.activation("activation_function"), gated=False)
    layers = (Layer(attention, mlp, norm, None, parallel=True),) * config.integer("n_layer", high=MAX_LAYERS)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("codegen", config.integer("vocab_size"), hidden, context, layers, norm, tied)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    third = spec.hidden // GROUPS
    query, value, key = split_rows(f"{LAYER}attn.qkv_proj.weight", (third,) * 3, GROUPS)
    packed = [replace(row, hf=stored) for row, stored in zip(QUERY_KEY_VALUE, (query, key, value), strict=True)]
    norm, output = renamed((ATTENTION[0], ATTENTION[-1]), LAYER, ("ln_1", "attn.out_proj"))
    mlp = (
        Row("layers.mlp.up.matrix", f"{LAYER}mlp.fc_in.weight", None, ("width", "hidden")),
        Row("layers.mlp.down.matrix", f"{LAYER}mlp.fc_out.weight", None, ("hidden", "width")),
    )
    embedding, final_norm = renamed((EMBEDDING, FINAL_NORM), "transformer.", ("wte", "ln_f"))
    added = (*biases(mlp), *biases((norm, final_norm), of="weight"), *biases((OUTPUT,)))
    outer = (embedding, norm, *packed, output, *mlp, final_norm, *added)
    ignored = tuple(f"transformer.h.*.attn.{buffer}" for buffer in ("causal_mask", "bias", "masked_bias"))
    return Table(outer, (*ignored, "lm_head.weight")) if spec.tied else Table((*outer, OUTPUT), ignored)
