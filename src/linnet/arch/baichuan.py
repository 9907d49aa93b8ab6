"""Baichuan 1 and 2 (Yang et al. 2023): Llama's layer with queries, keys and values in one matrix.

The 7B models rotate, the 13B ones have ALiBi instead; only the configuration of the former has max_position_embeddings, and GGUF
tells them apart by the number of layers. Baichuan 2 divides each row of the output by its length. A GGUF file's output is taken as
it stands there: its converter leaves that division to whoever makes the file.
Source: https://huggingface.co/baichuan-inc/Baichuan2-13B-Chat/blob/main/modeling_baichuan.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.alibi import alibi_slopes
from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, OUTPUT, QUERY_KEY_VALUE, Stored, Table, split_rows, standard_table

LAYERS_13B = 40
VOCABULARY_2 = 125_696


def build(config: Config) -> tuple[ModelSpec, Table]:
    sizes, gguf = read_sizes(config), config.format == "gguf"
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (), sizes.head_dim**-0.5)
    if sizes.layers == LAYERS_13B if gguf else config.optional_integer("max_position_embeddings") is None:
        config.ignore(["rope_dim", "rope_theta"])  # in GGUF files of every size
        context = config.integer("max_position_embeddings" if gguf else "model_max_length")
        attention = replace(attention, alibi=alibi_slopes(sizes.heads))
    else:
        rope = read_rope(config, sizes.head_dim, interleaved=gguf)
        context, attention = longest(rope), replace(attention, ropes=(rope,))
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("baichuan", sizes.vocab, sizes.hidden, context, (layer,) * sizes.layers, norm, tied)
    second = config.optional_number("z_loss_weight", low=-1.0) is not None  # of the training of Baichuan 2, and nowhere else
    return spec, table(spec, second or sizes.vocab == VOCABULARY_2)


def table(spec: ModelSpec, unit_rows: bool | None = None) -> Table:
    """unit_rows: whether the rows of the output are divided by their lengths; None: as the vocabulary tells."""
    attention = spec.layers[0].attention
    widths = attention.query_width, attention.key_width, attention.value_width
    packed = split_rows("model.layers.{layer}.self_attn.W_pack.weight", widths)
    query_key_value = [replace(row, hf=stored) for row, stored in zip(QUERY_KEY_VALUE, packed, strict=True)]
    made = standard_table(spec, (ATTENTION[0], *query_key_value, ATTENTION[-1], *GATED_MLP))
    if not (spec.vocab_size == VOCABULARY_2 if unit_rows is None else unit_rows):
        return made
    output = replace(OUTPUT, hf=Stored("lm_head.weight", unit_rows=True))
    return replace(made, rows=tuple(output if row is OUTPUT else row for row in made.rows))
