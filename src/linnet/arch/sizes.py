"""The sizes that every decoder's configuration gives, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.arch.config import Config
from linnet.errors import UnsupportedModelError

MAX_LAYERS = 10_000
MAX_HEAD_DIM = 1024
"""Twice the widest there is; the cache of rotary angles (`arch/rope.py`) grows with it, to 128 MiB."""


@dataclass(frozen=True)
class Sizes:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int


def read_sizes(config: Config, head_dim: int | None = None) -> Sizes:
    """Raises ModelFileError where they contradict each other. `head_dim`: the family's own default; None: hidden / heads."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"a divisor of {config.name('num_attention_heads')} ({heads})")
    if head_dim is None and hidden % heads and config.optional_integer("head_dim") is None:
        raise config.error("num_attention_heads", f"a divisor of {config.name('hidden_size')} ({hidden})")
    head_dim = config.integer("head_dim", head_dim or hidden // heads, high=MAX_HEAD_DIM)
    if config.integer("value_head_dim", head_dim) != head_dim:
        raise UnsupportedModelError(f"{config.where}: {config.name('value_head_dim')} differs from the keys' {head_dim}")
    return Sizes(
        config.integer("vocab_size"),
        hidden,
        read_layers(config),
        heads,
        kv_heads,
        head_dim,
        config.integer("intermediate_size"),
    )


def read_layers(config: Config) -> int:
    """How many layers the decoder has, without those past them that predict further tokens, which GGUF counts, too."""
    layers = config.integer("num_hidden_layers", high=MAX_LAYERS)
    further = config.integer("num_nextn_predict_layers", 0, low=0, high=MAX_LAYERS)
    if config.format == "hf":
        return layers
    if further >= layers:
        raise config.error("num_nextn_predict_layers", f"fewer than {config.name('num_hidden_layers')} ({layers})")
    return layers - further


def further_layers(config: Config, layers: int) -> list[str]:
    """Patterns of the tensors of layers past the decoder's `layers`, which predict further tokens (multi-token prediction, Gloeckle et
    al. 2024; DeepSeek V3) and are not run."""
    count = config.integer("num_nextn_predict_layers", 0, low=0, high=MAX_LAYERS)
    prefix = "blk." if config.format == "gguf" else "model.layers."
    return [f"{prefix}{layer}.*" for layer in range(layers, layers + count)]
