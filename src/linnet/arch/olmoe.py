"""OLMoE and FlexOlmo (Ai2 2024, 2025): a mixture in every layer, queries and keys normalised whole; FlexOlmo norms after its blocks."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.moe import moe_rows, read_experts, read_router
from linnet.arch.olmo2 import NORMS
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Moe, Norm
from linnet.arch.table import ATTENTION, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    family = config.text("model_type")
    if family == "flex_olmo":
        config.assume(rope_theta=500_000.0, rms_norm_eps=1e-6)
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-5))
    rope, scale = read_rope(config, sizes.head_dim), sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, norm, norm, norm_heads=False)
    experts = read_experts(config)
    moe = Moe(experts, Mlp(sizes.width, config.activation()), read_router(config, experts, config.flag("norm_topk_prob", False)))
    layer = Layer(attention, moe, None, None, norm, norm) if family == "flex_olmo" else Layer(attention, moe, norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, None if config.format == "gguf" else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    rows = moe_rows(spec)
    if spec.layers[0].attention_norm is None:
        return standard_table(spec, (*ATTENTION[1:], *biases(ATTENTION, attention_bias), *NORMS, *rows[1:]))
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *NORMS[:2], *rows))
