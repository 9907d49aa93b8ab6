"""Hunyuan's dense models (Tencent 2025; 0.5B to 7B): Llama's layer with queries and keys normalised after rotation. A rotary scaling
with an `alpha` stretches the base once and for all, whatever the length of a request; GGUF has the base as stretched."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope, rope_of
from linnet.arch.rope_spec import Rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, QUERY_KEY_NORMS, Table, biases, standard_table

HEAD_NORMS = tuple(
    replace(row, hf=f"model.layers.{{layer}}.self_attn.{name}_layernorm.weight")
    for row, name in zip(QUERY_KEY_NORMS, ("query", "key"), strict=True)
)
UNREAD = (
    "attention_head_dim cla_share_factor class_num dense_list eod_token_id im_end_id im_newline_id im_start_id mask_init_id "
    "org_vocab_size pad_id text_end_id text_start_id"
).split()
"""Keys of Hunyuan's other models, and ids of tokens."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.integer("num_experts", 1) != 1:
        raise config.error("num_experts", "1")
    spec = hunyuan_spec(config, "hunyuan_v1_dense")
    return spec, table(spec, None if config.format == "gguf" else config.flag("attention_bias", False))


def hunyuan_spec(config: Config, family: str) -> ModelSpec:
    """Its decoder, dense."""
    config.ignore(UNREAD)
    if not config.flag("use_qk_norm", True):
        raise config.error("use_qk_norm", "true")
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-5))
    rope, scale = _rope(config, sizes.head_dim), sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, norm, norm, norm_rotated=True)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    return ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)


def _rope(config: Config, head_dim: int) -> Rope:
    parameters = config.group("rope_parameters")
    scaling = config.group("rope_scaling") or parameters
    if scaling is None or scaling.text("rope_type", scaling.text("type", "default")) != "dynamic" or not scaling.number("alpha", 0.0):
        return read_rope(config, head_dim)
    scaling.ignore("factor beta_fast beta_slow mscale mscale_all_dim".split())
    rope = rope_of(config, head_dim, parameters or scaling, None)
    if rope.dim == 2:  # a single pair turns by one radian a position whatever the base
        return rope
    return replace(rope, theta=rope.theta * scaling.number("alpha") ** (rope.dim / (rope.dim - 2)))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *HEAD_NORMS, *GATED_MLP))
