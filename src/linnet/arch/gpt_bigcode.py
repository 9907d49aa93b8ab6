"""StarCoder (Li et al. 2023) and SantaCoder (Ben Allal et al. 2023): GPT-2's layer with one key and value for all heads."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.gpt2 import NAMES, OUTER, POSITIONS
from linnet.arch.plain import GPT_KEYS, PLAIN_LAYER, SUMMARY, in_one_tensor, plain_table, read_plain
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Positions
from linnet.arch.table import Table, biases, renamed

LAYERS = "transformer.h.{layer}."
HARMLESS = "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner validate_runner_input pad_key_length".split()
"""Ways of the first code to compute the same."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(**GPT_KEYS)
    config.assume(hidden_act="gelu_pytorch_tanh")
    config.ignore([*HARMLESS, *SUMMARY])
    if config.format == "hf":
        kv_heads = 1 if config.flag("multi_query", True) else config.integer("num_attention_heads")
        if config.integer("num_key_value_heads", kv_heads) != kv_heads:
            raise config.error("num_key_value_heads", f"{kv_heads}, as multi_query says,")
        config.assume(num_key_value_heads=kv_heads, max_position_embeddings=1024)
    sizes, norm = read_plain(config)
    scale = sizes.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (), scale)
    layer = Layer(attention, Mlp(sizes.width, config.activation(), gated=False), norm, norm)
    context, tied = config.integer("max_position_embeddings"), config.flag("tie_word_embeddings", True)
    embedding = Embedding(positions=Positions(context))
    spec = ModelSpec("gpt_bigcode", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied, embedding)
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    rows = in_one_tensor(renamed(PLAIN_LAYER, LAYERS, NAMES), spec, f"{LAYERS}attn.c_attn.weight", grouped=True)
    return plain_table(spec, [POSITIONS, *rows, *biases(rows)], OUTER, "transformer.", ignored=("*.attn.bias", "*.attn.masked_bias"))
