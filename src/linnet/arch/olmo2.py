"""OLMo 2 and 3 (OLMo et al. 2024, 2025): Llama's layer with norms after its blocks in place of before, and queries and keys normalised
whole. OLMo 3 has three layers with a window for each that sees everything, whose rotary positions alone scale. GGUF calls both
"olmo2"."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import longest, read_rope, read_two_ropes
from linnet.arch.rope_spec import Rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Table, biases, layer_row, standard_table

NORMS = (
    layer_row("attention.query_norm.weight", "self_attn.q_norm", "attn_q_norm", "query"),
    layer_row("attention.key_norm.weight", "self_attn.k_norm", "attn_k_norm", "key"),
    layer_row("attention_post_norm.weight", "post_attention_layernorm", "post_attention_norm", "hidden"),
    layer_row("mlp_post_norm.weight", "post_feedforward_layernorm", "post_ffw_norm", "hidden"),
)
POST_NORMS = NORMS[2:]


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    windows = config.optional_integer("sliding_window") is not None if gguf else config.text("model_type") == "olmo3"
    if windows and not gguf:
        config.assume(rope_theta=500_000.0, sliding_window=4096)
    sizes = read_sizes(config)
    norm, mlp = Norm(config.number("rms_norm_eps", 1e-5)), Mlp(sizes.width, config.activation())

    def layer(rope: Rope, window: int | None = None) -> Layer:
        scale = sizes.head_dim**-0.5
        attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, window, norm, norm, norm_heads=False)
        return Layer(attention, mlp, None, None, norm, norm)

    if windows:
        rope, nearby = read_two_ropes(config, sizes.head_dim)
        window, period = config.integer("sliding_window"), config.integer("sliding_window_pattern", 4)
        sliding = sliding_layers(config, sizes.layers, lambda layer: (layer + 1) % period != 0)
        layers = tuple(layer(nearby, window) if slides else layer(rope) for slides in sliding)
    else:
        rope = read_rope(config, sizes.head_dim)
        layers = (layer(rope),) * sizes.layers
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("olmo3" if windows else "olmo2", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied)
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION[1:], *biases(ATTENTION, attention_bias), *NORMS, *GATED_MLP[1:]))
