"""Granite 3 (IBM 2024): Llama's layer with multipliers of embeddings, scores, branches and logits (after Yang et al. 2022's muP)."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import ATTENTION, GATED_MLP, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    spec = granite_spec(config, "granite")
    if config.format == "gguf":
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def granite_spec(config: Config, family: str) -> ModelSpec:
    """Its decoder, dense."""
    gguf = config.format == "gguf"
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, interleaved=gguf)
    ropes = (rope,) if config.flag("rope_finetuned", True) else ()  # GGUF says so of models without positions
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    scale = config.number("attention_multiplier", sizes.head_dim**-0.5 if gguf else 1.0)
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, ropes, scale)
    branch_scale = config.number("residual_multiplier", 1.0)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, norm, branch_scale=branch_scale)
    tied = config.flag("tie_word_embeddings", False)
    embedding = Embedding(scale=config.number("embedding_multiplier", 1.0))
    output = Output(scale=1 / config.number("logit_scale" if gguf else "logits_scaling", 1.0))
    return ModelSpec(family, sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied, embedding, output)


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on every projection of the block, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *GATED_MLP, *biases(GATED_MLP, mlp_bias)))
