"""Nemotron 3 and 4 and Minitron (NVIDIA 2024): layer norms, ReLU squared without a gate, and half of each head rotated. Checkpoints
store the weights of norms less 1; GGUF files store them whole."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.gemma import less_one
from linnet.arch.plain import PLAIN_LAYER
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import FINAL_NORM, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(layer_norm_eps="norm_eps")
    config.assume(hidden_act="relu2")
    if config.format == "hf":
        config.called(partial_rotary_factor="rotary_percent")
        config.assume(partial_rotary_factor=0.5)
    sizes = read_sizes(config)
    rope, norm = read_rope(config, sizes.head_dim), Norm(config.number("layer_norm_eps", 1e-5), "layer")
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5)
    layer = Layer(attention, Mlp(sizes.width, config.activation(), gated=False), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("nemotron", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    if config.format == "gguf":
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on every projection of the block, on none, or (None) as the checkpoint has them."""
    added = (*biases(PLAIN_LAYER[:5], attention_bias), *biases(PLAIN_LAYER[5:], mlp_bias))
    norms = biases((*PLAIN_LAYER, FINAL_NORM), of="weight")
    return less_one(standard_table(spec, (*PLAIN_LAYER, *added, *norms)))
