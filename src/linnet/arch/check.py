"""What no spec may say: sizes that contradict each other, whoever made it: a family from a file, or a caller's own hands."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from linnet.arch.rope_spec import FactorScaling, LongScaling, Rope
from linnet.arch.sizes import MAX_HEAD_DIM, MAX_LAYERS
from linnet.arch.spec import Attention, GatedDeltaNet, Latent, Layer, Mixer, Mlp, ModelSpec, Moe
from linnet.errors import ModelFileError

MAX_EXPERTS = 2**17
"""Of all layers together: each has tensors, whose names are made before it is known whether a file has them."""

MAX_TAPS = 64
"""Positions that a convolution looks at: the kernels keep them side by side."""

MAX_COMPUTED_POSITIONS = 2**28
"""Entries of a table of sinusoidal positions: 1 GiB."""


def check(spec: ModelSpec, where: str) -> None:
    """Raises ModelFileError for the first thing that cannot be."""
    for problem in _problems(spec):
        raise ModelFileError(f"{where}: no such {spec.family} model can be: {problem}")


def _problems(spec: ModelSpec) -> Iterator[str]:
    yield from _outside(spec, len(spec.layers))
    first: dict[Layer, int] = {}  # most are alike
    for index, layer in enumerate(spec.layers):
        first.setdefault(layer, index)
    for index, layer in enumerate(spec.layers):
        if isinstance(layer.mixer, Attention):
            yield from _shared_keys(spec, index, layer.mixer)
        if layer.per_layer != spec.layers[0].per_layer:
            yield f"layer {index} has other per-layer embeddings than the first"
    for layer, index in first.items():
        for problem in (*_layer(layer), *_mixer(layer.mixer, spec.hidden), *_feed_forward(layer.mlp)):
            yield f"layer {index}: {problem}"


def _outside(spec: ModelSpec, layers: int) -> Iterator[str]:
    yield from _sizes(spec, "vocab_size", "hidden", "context")
    if not 1 <= layers <= MAX_LAYERS:
        yield f"{layers} layers; there must be 1 to {MAX_LAYERS}"
    experts = sum(layer.mlp.experts for layer in spec.layers if isinstance(layer.mlp, Moe))
    if experts > MAX_EXPERTS:
        yield f"{experts} experts in all layers together; there may be {MAX_EXPERTS}"
    if spec.is_recurrent and spec.bidirectional_prompt:
        yield "a prompt whose tokens see each other, in recurrent layers"
    if spec.backout is not None and not 0 <= spec.backout < layers:
        yield f"backout is layer {spec.backout} of {layers}"
    embedding, positions = spec.embedding, spec.embedding.positions
    if embedding.width is not None:
        yield from _sizes(embedding, "width")
    if embedding.smear is not None and not 1 <= embedding.smear <= spec.hidden:
        yield f"smear looks at {embedding.smear} of {spec.hidden} columns"
    if positions is not None and not 0 <= positions.offset <= positions.count - spec.context:
        yield f"a table of {positions.count} positions, from {positions.offset} on, for a context of {spec.context}"
    if positions is not None and positions.kind == "sinusoidal" and positions.count * spec.hidden > MAX_COMPUTED_POSITIONS:
        yield f"{positions.count} computed positions of {spec.hidden} entries; there may be {MAX_COMPUTED_POSITIONS} entries"


def _shared_keys(spec: ModelSpec, index: int, attention: Attention) -> Iterator[str]:
    """That the layer whose keys and values another reads comes before it, has its own, and is of that shape."""
    number = attention.kv_layer
    if number is None:
        return
    if not 0 <= number < index or spec.layers[number].attention.kv_layer is not None:
        yield f"layer {index} reads the keys and values of layer {number}, which is no earlier layer that has its own"
        return
    other = spec.layers[number].attention
    alike = ("kv_heads", "head_dim", "value_head_dim", "window")
    if any(getattr(attention, name) != getattr(other, name) for name in alike):
        yield f"layer {index} reads the keys and values of layer {number}, whose {', '.join(alike)} are not all the same"
    if attention.latent or attention.keys_as_values or attention.key_norm or attention.value_norm or attention.value_gate is not None:
        yield f"layer {index} reads the keys and values of layer {number}, and says how it makes its own"


def _layer(layer: Layer) -> Iterator[str]:
    if layer.per_layer is not None:
        yield from _sizes(layer.per_layer, "width")
    after = (layer.attention_post_norm, layer.mlp_post_norm, layer.attention_sum_norm, layer.mlp_sum_norm)
    if layer.parallel and any(norm is not None for norm in after):
        yield "attention and mlp are parallel, and one has a norm after it"


def _mixer(mixer: Mixer, hidden: int) -> Iterator[str]:
    if isinstance(mixer, Attention):
        yield from _attention(mixer, hidden)
        return
    if not 2 <= mixer.taps <= MAX_TAPS:
        yield f"a convolution of {mixer.taps} taps; there may be 2 to {MAX_TAPS}"
    if isinstance(mixer, GatedDeltaNet):
        yield from _sizes(mixer, "key_heads", "value_heads")
        for name in ("key_dim", "value_dim"):
            if not 1 <= getattr(mixer, name) <= MAX_HEAD_DIM:
                yield f"{name} is {getattr(mixer, name)}; it must be 1 to {MAX_HEAD_DIM}"
        if mixer.key_heads > 0 and mixer.value_heads % mixer.key_heads:
            yield f"{mixer.value_heads} value_heads do not share {mixer.key_heads} key_heads evenly"
    else:
        yield from _sizes(mixer, "width")


def _attention(attention: Attention, hidden: int) -> Iterator[str]:
    yield from _sizes(attention, "heads", "kv_heads")
    if attention.kv_heads > 0 and attention.heads % attention.kv_heads:
        yield f"{attention.heads} heads do not share {attention.kv_heads} kv_heads evenly"
    for name in ("head_dim", "value_head_dim"):
        if not 1 <= getattr(attention, name) <= MAX_HEAD_DIM:
            yield f"{name} is {getattr(attention, name)}; it must be 1 to {MAX_HEAD_DIM}"
    if attention.window is not None:
        yield from _sizes(attention, "window")
    if attention.alibi is not None and len(attention.alibi) != attention.heads:
        yield f"{len(attention.alibi)} alibi slopes for {attention.heads} heads"
    if attention.softcap is not None and not 0 < attention.softcap < inf:
        yield f"softcap is {attention.softcap}"
    if attention.temperature is not None:
        yield from _sizes(attention.temperature, "length")
        if not -1e6 < attention.temperature.beta < 1e6:
            yield f"temperature grows by {attention.temperature.beta}"
    if attention.value_gate is not None and not 1 <= attention.value_gate <= hidden:
        yield f"value_gate looks at {attention.value_gate} of {hidden} columns"
    for rope in attention.ropes:
        yield from _rope(rope, attention.head_dim)
    if attention.latent is not None:
        yield from _latent(attention, attention.latent)


def _rope(rope: Rope, head_dim: int) -> Iterator[str]:
    if rope.dim < 2 or rope.dim % 2 or not 0 <= rope.start <= head_dim - rope.dim:
        yield f"a rope over {rope.dim} entries from {rope.start} on, in heads of {head_dim}; it takes an even number that is there"
    scaling = rope.scaling
    sets = [scaling.factors] if isinstance(scaling, FactorScaling) else []
    if isinstance(scaling, LongScaling):
        sets = [scaling.short_factors, scaling.long_factors]
    for factors in sets:
        if len(factors) != rope.dim // 2:
            yield f"{len(factors)} rotary factors for {rope.dim // 2} frequencies"


def _latent(attention: Attention, latent: Latent) -> Iterator[str]:
    yield from _sizes(latent, "rank", "rope_dim")
    if latent.query_rank is not None:
        yield from _sizes(latent, "query_rank")
    if latent.rope_dim >= attention.head_dim:
        yield f"a shared key part of {latent.rope_dim} in heads of {attention.head_dim}"
    if any(rope.start != attention.head_dim - latent.rope_dim or rope.dim > latent.rope_dim for rope in attention.ropes):
        yield f"a rope that is not over the {latent.rope_dim} shared entries, the last of a head"
    norms = attention.query_norm or attention.key_norm or attention.value_norm
    if norms or attention.keys_as_values or attention.value_gate is not None or attention.gated:
        yield "latent attention with query_norm, key_norm, value_norm, value_gate, keys_as_values or gated"


def _feed_forward(mlp: Mlp | Moe) -> Iterator[str]:
    blocks = [mlp] if isinstance(mlp, Mlp) else [mlp.expert, *([mlp.shared] if mlp.shared else [])]
    for block in blocks:
        yield from _sizes(block, "width")
        if block.activation == "clamped_swiglu" and not block.gated:
            yield "clamped_swiglu is only a gate"
    if isinstance(mlp, Mlp):
        return
    if mlp.branch_norm is not None and mlp.shared is None:
        yield "branch_norm without a shared block"
    yield from _sizes(mlp, "experts")
    yield from _sizes(mlp.router, "active", "groups", "active_groups")
    router = mlp.router
    if router.groups > 0 and mlp.experts % router.groups:
        yield f"{mlp.experts} experts are not {router.groups} equal groups"
    if router.active_groups > router.groups:
        yield f"{router.active_groups} active groups of {router.groups}"
    if router.groups > 0 and router.active > mlp.experts // router.groups * router.active_groups:
        yield f"{router.active} active experts of the {mlp.experts // router.groups * router.active_groups} that may be chosen"


def _sizes(part: object, *names: str) -> Iterator[str]:
    """That these are counts: at least 1, and such as int32 holds."""
    for name in names:
        value = getattr(part, name)
        if not 1 <= value < 2**31:
            yield f"{name} is {value}"
