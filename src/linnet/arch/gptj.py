"""GPT-J (Wang & Komatsuzaki 2021): attention and feed-forward block side by side after one norm; the first entries of each head are
rotated, neighbours in pairs; the output has a bias."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.gpt2 import OUTER
from linnet.arch.plain import GPT_KEYS, PLAIN_LAYER, SUMMARY, plain_table, read_plain
from linnet.arch.rope_config import read_rope
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec
from linnet.arch.table import OUTPUT, Table, biases, renamed

NAMES = ("ln_1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "", "mlp.fc_in", "mlp.fc_out")
"""Of the rows of PLAIN_LAYER; there is no second norm."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(**GPT_KEYS, rope_dim="rotary_dim")
    config.assume(hidden_act="gelu_new", rope_dim=64)
    config.ignore(["rotary", "scale_attn_weights", *SUMMARY])  # the model rotates and scales whatever these say
    sizes, norm = read_plain(config)
    rope = read_rope(config, sizes.head_dim, interleaved=True)
    attention = Attention(sizes.heads, sizes.heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    layer = Layer(attention, Mlp(sizes.width, config.activation(), gated=False), norm, None, parallel=True)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("gptj", sizes.vocab, sizes.hidden, rope.context, (layer,) * sizes.layers, norm, tied)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    rows = [row for row, name in zip(renamed(PLAIN_LAYER, "transformer.h.{layer}.", NAMES), NAMES, strict=True) if name]
    ignored = ("*.attn.bias", "*.attn.masked_bias")
    return plain_table(spec, [*rows, *biases(rows[5:]), *biases([OUTPUT])], OUTER, "transformer.", ignored)
