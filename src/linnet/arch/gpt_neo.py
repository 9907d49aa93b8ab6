"""GPT-Neo (Black et al. 2021): GPT-2 with scores that are not scaled, and a window in the layers called local."""

from __future__ import annotations

from typing import Any

from linnet.arch.config import Config
from linnet.arch.gpt2 import OUTER, POSITIONS
from linnet.arch.plain import GPT_KEYS, PLAIN_LAYER, SUMMARY, plain_table, read_plain
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Positions
from linnet.arch.table import Table, biases, renamed

ATTN = "attn.attention"
NAMES = ("ln_1", f"{ATTN}.q_proj", f"{ATTN}.k_proj", f"{ATTN}.v_proj", f"{ATTN}.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
"""Of the rows of PLAIN_LAYER."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(**{key: GPT_KEYS[key] for key in ("hidden_act", "layer_norm_eps")}, num_hidden_layers="num_layers")
    config.called(num_attention_heads="num_heads", sliding_window="window_size")
    config.assume(hidden_act="gelu_new", tie_word_embeddings=True)
    config.ignore(["attention_layers", "embed_dropout", "resid_dropout", *SUMMARY])  # the first: what attention_types come to
    sizes, norm = read_plain(config)
    context, window = config.integer("max_position_embeddings"), config.integer("sliding_window", 256)
    mlp = Mlp(sizes.width, config.activation(), gated=False)
    layers = tuple(
        Layer(Attention(sizes.heads, sizes.heads, sizes.head_dim, (), 1.0, window if local else None), mlp, norm, norm)
        for local in _local_layers(config, sizes.layers)
    )
    embedding, tied = Embedding(positions=Positions(context)), config.flag("tie_word_embeddings", True)
    spec = ModelSpec("gpt_neo", sizes.vocab, sizes.hidden, context, layers, norm, tied, embedding)
    return spec, table(spec)


def _local_layers(config: Config, layers: int) -> list[bool]:
    """By `attention_types`: kinds that repeat so many times, as [[["global", "local"], 12]]."""
    types: list[Any] = []
    for group in config.items("attention_types") or [[["global", "local"], 12]]:
        match group:
            case [[*kinds], int(times)] if 0 < times * len(kinds) <= layers - len(types):
                types += kinds * times
            case _:
                types.append(None)
    if len(types) != layers or not all(kind in ("global", "local") for kind in types):
        raise config.error("attention_types", f"[kinds, times] for {layers} layers, each global or local,")
    return [kind == "local" for kind in types]


def table(spec: ModelSpec) -> Table:
    rows = renamed(PLAIN_LAYER, "transformer.h.{layer}.", NAMES)
    ignored = ("*.attention.bias", "*.attention.masked_bias")
    return plain_table(spec, [POSITIONS, *rows, *biases(rows[4:])], OUTER, "transformer.", ignored)
