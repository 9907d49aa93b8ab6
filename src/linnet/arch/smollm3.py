"""SmolLM 3 (Hugging Face 2025): Llama's layer, every fourth one without positions (Yang et al. 2025, "RoPE to NoPE and back")."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, GATED_MLP, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(rope_theta=2_000_000.0, num_key_value_heads=config.optional_integer("num_key_value_heads", 4))
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim, interleaved=gguf)
    norm = Norm(config.number("rms_norm_eps", 1e-6))
    mlp = Mlp(sizes.width, config.activation())

    def layer(rotates: bool, window: int | None) -> Layer:
        ropes = (rope,) if rotates else ()
        return Layer(Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, ropes, sizes.head_dim**-0.5, window), mlp, norm, norm)

    rotating = _rotating(config, sizes.layers)
    layers = tuple(map(layer, rotating, _windows(config, rotating)))
    spec = ModelSpec("smollm3", sizes.vocab, sizes.hidden, longest(rope), layers, norm, config.flag("tie_word_embeddings", True))
    if gguf:
        return spec, table(spec)
    return spec, table(spec, config.flag("attention_bias", False), config.flag("mlp_bias", False))


def _rotating(config: Config, layers: int) -> list[bool]:
    """Whether each layer has rotary positions; in `no_rope_layers`, 1 stands for a layer that has."""
    interval, listed = config.integer("no_rope_layer_interval", 4), config.items("no_rope_layers")
    if listed is None:
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    if len(listed) < layers or not all(type(has) in (int, bool) for has in listed):
        raise config.error("no_rope_layers", f"{layers} times 0 or 1")
    return [bool(has) for has in listed[:layers]]


def _windows(config: Config, rotating: list[bool]) -> list[int | None]:
    """Each layer's window: by `layer_types`, or of those without positions; none at all without `use_sliding_window`."""
    config.ignore(["max_window_layers"])
    window = config.optional_integer("sliding_window")
    sliding = sliding_layers(config, len(rotating), lambda layer: not rotating[layer])
    used = config.flag("use_sliding_window", False)
    return [window if used and slides else None for slides in sliding]


def table(spec: ModelSpec, attention_bias: bool | None = None, mlp_bias: bool | None = None) -> Table:
    """Biases: on every projection of the block, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *GATED_MLP, *biases(GATED_MLP, mlp_bias)))
