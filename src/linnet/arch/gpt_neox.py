"""GPT-NeoX 20B (Black et al. 2022), Pythia (Biderman et al. 2023) and others: attention and feed-forward block side by side, each after
a norm of its own, or one after the other; a quarter of each head is rotated."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, in_one_tensor, plain_table, read_plain
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec
from linnet.arch.table import Table, biases, or_prefixed, renamed

QKV = "attention.query_key_value"
NAMES = (
    "input_layernorm",
    *(QKV, QKV, QKV, "attention.dense"),
    "post_attention_layernorm",
    *("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
)
"""Of the rows of PLAIN_LAYER."""
LAYERS = "gpt_neox.layers.{layer}."
OUTER = ("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out")


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(rope_theta="rotary_emb_base", partial_rotary_factor="rotary_pct")
    config.assume(hidden_act="gelu")
    if config.format == "hf":
        config.assume(partial_rotary_factor=0.25)
    sizes, norm = read_plain(config)
    rope = read_rope(config, sizes.head_dim)
    attention = Attention(sizes.heads, sizes.heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    mlp = Mlp(sizes.width, config.activation(), gated=False)
    layer = Layer(attention, mlp, norm, norm, parallel=config.flag("use_parallel_residual", True))
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("gpt_neox", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, config.flag("attention_bias", True) if config.format == "hf" else None)


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the projections of attention, on none, or (None) as the checkpoint has them."""
    rows = in_one_tensor(renamed(PLAIN_LAYER, LAYERS, NAMES), spec, f"{LAYERS}{QKV}.weight", grouped=True)
    rows += [*biases(rows[:5], attention_bias), *biases(rows[5:])]
    ignored = ("*.attention.bias", "*.attention.masked_bias", "lm_head.weight" if spec.tied else "*.rotary_emb.inv_freq")
    return or_prefixed(plain_table(spec, rows, OUTER, "gpt_neox.", ignored), "embed_out.", "lm_head.")
