"""StarCoder 2 (Lozhkov et al. 2024): layer norms and a plain feed-forward block, biases everywhere, rotary positions, grouped queries
and, in some sizes, a window in every layer."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, plain_table, read_plain
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec
from linnet.arch.table import Table, biases, renamed

NAMES = (
    "input_layernorm",
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "post_attention_layernorm",
    *("mlp.c_fc", "mlp.c_proj"),
)
"""Of the rows of PLAIN_LAYER."""
OUTER = ("model.embed_tokens", "model.norm", "lm_head")


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    config.called(layer_norm_eps="norm_epsilon")
    config.assume(hidden_act="gelu_pytorch_tanh")
    if not gguf:
        config.assume(num_key_value_heads=2, max_position_embeddings=4096)
    sizes, norm = read_plain(config)
    rope, window = read_rope(config, sizes.head_dim), config.optional_integer("sliding_window")
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5, window)
    layer = Layer(attention, Mlp(sizes.width, config.activation(), gated=False), norm, norm)
    tied = config.flag("tie_word_embeddings", True)
    spec = ModelSpec("starcoder2", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, None if gguf else config.flag("use_bias", True))


def table(spec: ModelSpec, linear_biases: bool | None = None) -> Table:
    """Biases: on every projection, on none, or (None) as the checkpoint has them."""
    rows = renamed(PLAIN_LAYER, "model.layers.{layer}.", NAMES)
    return plain_table(spec, [*rows, *biases(rows, linear_biases)], OUTER, "model.")
