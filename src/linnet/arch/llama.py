"""Llama 1, 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024), and the many checkpoints of that shape."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if gguf and config.optional_integer("num_experts", low=0):
        from linnet.arch import mixtral

        return mixtral.build(config)
    window = config.optional_integer("sliding_window") if gguf else None
    spec = llama_spec(config, "llama", window)
    if gguf:
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def llama_spec(config: Config, family: str, window: int | None, interleaved: bool | None = None) -> ModelSpec:
    """The layer of Llama, with or without a sliding window. interleaved: see `Rope`; None: as Llama's files have it."""
    sizes = read_sizes(config)
    # GGUF stores the rows of Llama's queries and keys in the order that rotates neighbours.
    rope = read_rope(config, sizes.head_dim, config.format == "gguf" if interleaved is None else interleaved)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), sizes.head_dim**-0.5, window)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm)
    tied = config.flag("tie_word_embeddings", False)
    return ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on every projection of the block, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *GATED_MLP, *biases(GATED_MLP, mlp_bias)))
