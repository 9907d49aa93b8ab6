"""ChatGLM-6B (Du et al. 2022, Zeng et al. 2023), the first. Its successors share its model_type: see `chatglm2.py`.

A prompt ends with [gMASK] and <sop>; its tokens but for <sop> see each other. One half of each head rotates by the position in the
prompt, the other by that in the answer. A layer adds to its own normalised input, times the square root of twice the layers.
Source: https://huggingface.co/THUDM/chatglm-6b/blob/main/modeling_chatglm.py
"""

from __future__ import annotations

import struct

from linnet.arch import chatglm2
from linnet.arch.config import Config
from linnet.arch.rope_spec import FactorScaling, Rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import OUTPUT, Row, Table, biases, split_rows
from linnet.errors import UnsupportedModelError

THETA = 10_000.0


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.optional_integer("padded_vocab_size") is not None:
        return chatglm2.build(config)
    context = config.integer("max_sequence_length", 2048)
    config.assume(num_hidden_layers=config.integer("num_layers"), intermediate_size=config.integer("inner_hidden_size"))
    if not config.flag("position_encoding_2d", True):
        raise UnsupportedModelError(f"{config.where}: position_encoding_2d is false; only two-dimensional positions run")
    sizes = read_sizes(config)
    if sizes.head_dim % 4:
        raise config.error("num_attention_heads", "heads of a multiple of 4 entries")
    norm = Norm(config.number("layernorm_epsilon", 1e-5), "layer")
    half = sizes.head_dim // 2
    scaling = FactorScaling(tuple(_half_precision_factor(pair, half) for pair in range(half // 2)))
    prompt = Rope(half, THETA, context, scaling=scaling, positions="prompt")
    block = Rope(half, THETA, context, scaling=scaling, positions="block", start=half)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (prompt, block), sizes.head_dim**-0.5)
    mlp = Mlp(sizes.width, "gelu_tanh", gated=False)
    layer = Layer(attention, mlp, norm, norm, residual="normed", residual_scale=(2 * sizes.layers) ** 0.5)
    layers, tied = (layer,) * sizes.layers, config.flag("tie_word_embeddings", False)
    config.ignore(["mask_token_id", "gmask_token_id", "image_length", "prefix_projection"])
    spec = ModelSpec("chatglm", sizes.vocab, sizes.hidden, context, layers, norm, tied, bidirectional_prompt=True)
    return spec, table(spec)


def _half_precision_factor(pair: int, dim: int) -> float:
    """What divides a frequency into the one that the model has: rounded to float16."""
    exact: float = THETA ** (-2 * pair / dim)
    (rounded,) = struct.unpack("<e", struct.pack("<e", exact))
    return exact / float(rounded)


def table(spec: ModelSpec) -> Table:
    if not spec.bidirectional_prompt:
        return chatglm2.table(spec)
    attention = spec.layers[0].attention
    packed = split_rows(_name("attention.query_key_value"), (attention.head_dim,) * 3, attention.heads)
    query, key, value = packed
    matrices = (
        Row("layers.attention.query.matrix", query, None, ("query", "hidden")),
        Row("layers.attention.key.matrix", key, None, ("key", "hidden")),
        Row("layers.attention.value.matrix", value, None, ("value", "hidden")),
        Row("layers.attention.output.matrix", _name("attention.dense"), None, ("hidden", "attention")),
        Row("layers.mlp.up.matrix", _name("mlp.dense_h_to_4h"), None, ("width", "hidden")),
        Row("layers.mlp.down.matrix", _name("mlp.dense_4h_to_h"), None, ("hidden", "width")),
    )
    norms = (
        Row("layers.attention_norm.weight", _name("input_layernorm"), None, ("hidden",)),
        Row("layers.mlp_norm.weight", _name("post_attention_layernorm"), None, ("hidden",)),
        Row("final_norm.weight", "transformer.final_layernorm.weight", None, ("hidden",)),
    )
    embedding = Row("embedding", "transformer.word_embeddings.weight", None, ("vocab", "hidden"))
    rows = (embedding, *matrices, *biases(matrices), *norms, *biases(norms, of="weight"))
    ignored = ("*.rotary_emb.inv_freq",)
    return Table(rows, (*ignored, "lm_head.weight")) if spec.tied else Table((*rows, OUTPUT), ignored)


def _name(suffix: str) -> str:
    return f"transformer.layers.{{layer}}.{suffix}.weight"
