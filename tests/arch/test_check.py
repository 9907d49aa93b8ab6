"""Specs that cannot be, each with the words that name why; and that every option of a spec has its fields."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from linnet.arch.check import check
from linnet.arch.fields import layer_fields, outer_fields
from linnet.arch.rope_spec import FactorScaling, LongScaling, Rope
from linnet.arch.spec import (
    Attention,
    Embedding,
    GatedDeltaNet,
    Latent,
    Layer,
    Mixer,
    Mlp,
    ModelSpec,
    Moe,
    Norm,
    PerLayer,
    Positions,
    Router,
    ShortConvolution,
    Temperature,
)
from linnet.errors import ModelFileError
from linnet.weights import AttentionWeights, ConvolutionWeights, DeltaNetWeights, LayerWeights, MlpWeights, Weights

NORM = Norm(1e-5)
ROPE = Rope(8, 10000.0, 64)
ATTEND = Attention(4, 2, 16, (ROPE,), 0.25)
LAYER = Layer(ATTEND, Mlp(64, "silu"), NORM, NORM)
SPEC = ModelSpec("made-up", 20, 32, 64, (LAYER,), NORM, True)
LATENT = replace(ATTEND, ropes=(replace(ROPE, start=8),), latent=Latent(12, 8, NORM))
MOE = Moe(8, Mlp(64, "silu"), Router(4, groups=4, active_groups=2))


def with_attention(attention: Attention = ATTEND, **changes: Any) -> ModelSpec:
    return replace(SPEC, layers=(LAYER, replace(LAYER, mixer=replace(attention, **changes))))


def sharing(attention: Attention = ATTEND, number: int = 0, **changes: Any) -> ModelSpec:
    """A layer that reads the keys and values of another."""
    return with_attention(replace(attention, kv_layer=number), **changes)


def with_mixer(mixer: Mixer) -> ModelSpec:
    return replace(SPEC, layers=(LAYER, replace(LAYER, mixer=mixer)))


def with_mlp(mlp: Any, **changes: Any) -> ModelSpec:
    return replace(SPEC, layers=(LAYER, replace(LAYER, mlp=replace(mlp, **changes))))


def with_router(**changes: Any) -> ModelSpec:
    return with_mlp(replace(MOE, router=replace(MOE.router, **changes)))


def with_rope(**changes: Any) -> ModelSpec:
    return with_attention(ropes=(replace(ROPE, **changes),))


POSSIBLE = [
    SPEC,
    with_attention(LATENT),
    with_mlp(MOE),
    with_router(active=4, groups=8, active_groups=4),
    with_rope(scaling=LongScaling((1.0,) * 4, (2.0,) * 4, 32, 1.0)),
    replace(SPEC, embedding=Embedding(positions=Positions(66, offset=2))),
    sharing(query_norm=NORM),
    with_attention(keys_as_values=True, value_norm=NORM),
    with_mlp(MOE, shared=Mlp(64, "silu"), branch_norm=NORM),
    replace(SPEC, layers=(replace(LAYER, per_layer=PerLayer(4, "silu", NORM)),) * 2),
]
IMPOSSIBLE = [
    (replace(SPEC, layers=()), "0 layers"),
    (replace(SPEC, layers=(LAYER,) * 10_001), "10001 layers"),
    (replace(SPEC, vocab_size=0), "vocab_size is 0"),
    (replace(SPEC, hidden=-1), "hidden is -1"),
    (replace(SPEC, context=2**31), "context is 2147483648"),
    (replace(SPEC, backout=1), "backout is layer 1 of 1"),
    (replace(SPEC, embedding=Embedding(width=0)), "width is 0"),
    (replace(SPEC, embedding=Embedding(smear=33)), "smear looks at 33 of 32 columns"),
    (replace(SPEC, embedding=Embedding(positions=Positions(65, offset=2))), "a table of 65 positions, from 2 on, for a context of 64"),
    (replace(SPEC, embedding=Embedding(positions=Positions(2**26, "sinusoidal"))), "67108864 computed positions of 32 entries"),
    (with_attention(heads=5), "layer 1: 5 heads do not share 2 kv_heads evenly"),
    (with_attention(kv_heads=0), "kv_heads is 0"),
    (with_attention(head_dim=2000), "head_dim is 2000"),
    (with_attention(value_dim=0), "value_head_dim is 0"),
    (with_attention(window=0), "window is 0"),
    (with_attention(alibi=(0.5,) * 3), "3 alibi slopes for 4 heads"),
    (with_attention(softcap=0.0), "softcap is 0.0"),
    (with_attention(softcap=float("nan")), "softcap is nan"),
    (with_attention(value_gate=40), "value_gate looks at 40 of 32 columns"),
    (sharing(number=1), "layer 1 reads the keys and values of layer 1, which is no earlier layer"),
    (replace(SPEC, layers=(*sharing().layers, sharing(number=1).layers[1])), "layer 2 reads the keys and values of layer 1, which is no"),
    (sharing(window=9), "layer 1 reads the keys and values of layer 0, whose kv_heads, head_dim, value_head_dim, window"),
    (sharing(key_norm=NORM), "layer 1 reads the keys and values of layer 0, and says how it makes its own"),
    (with_rope(dim=18), "a rope over 18 entries from 0 on, in heads of 16"),
    (with_rope(dim=7), "a rope over 7 entries"),
    (with_rope(start=10), "a rope over 8 entries from 10 on"),
    (with_rope(scaling=FactorScaling((1.0,) * 5)), "5 rotary factors for 4 frequencies"),
    (with_rope(scaling=LongScaling((1.0,) * 4, (1.0,) * 3, 32, 1.0)), "3 rotary factors for 4 frequencies"),
    (with_attention(LATENT, latent=Latent(12, 16, NORM)), "a shared key part of 16 in heads of 16"),
    (with_attention(LATENT, ropes=(ROPE,)), "a rope that is not over the 8 shared entries"),
    (with_attention(LATENT, query_norm=NORM), "latent attention with query_norm"),
    (
        with_attention(LATENT, keys_as_values=True),
        "latent attention with query_norm, key_norm, value_norm, value_gate, keys_as_values or gated",
    ),
    (with_attention(LATENT, latent=Latent(12, 8, NORM, query_rank=0)), "query_rank is 0"),
    (with_mlp(LAYER.mlp, width=0), "width is 0"),
    (with_mlp(LAYER.mlp, activation="clamped_swiglu", gated=False), "clamped_swiglu is only a gate"),
    (with_mlp(MOE, shared=Mlp(0, "silu")), "width is 0"),
    (with_mlp(MOE, branch_norm=NORM), "branch_norm without a shared block"),
    (replace(SPEC, layers=(replace(LAYER, per_layer=PerLayer(0, "silu", NORM)),)), "width is 0"),
    (replace(SPEC, layers=(LAYER, replace(LAYER, per_layer=PerLayer(4, "silu", NORM)))), "layer 1 has other per-layer embeddings"),
    (with_mlp(MOE, experts=9), "9 experts are not 4 equal groups"),
    (with_router(active=5), "5 active experts of the 4 that may be chosen"),
    (with_router(active=9, groups=1, active_groups=1), "9 active experts of the 8"),
    (with_router(active_groups=5), "5 active groups of 4"),
    (with_router(groups=0), "groups is 0"),
    (with_mixer(GatedDeltaNet(2, 5, 8, 8, 4, NORM)), "5 value_heads do not share 2 key_heads evenly"),
    (with_mixer(GatedDeltaNet(2, 4, 2048, 8, 4, NORM)), "key_dim is 2048; it must be 1 to 1024"),
    (with_mixer(GatedDeltaNet(0, 4, 8, 8, 4, NORM)), "key_heads is 0"),
    (with_mixer(ShortConvolution(32, 1)), "a convolution of 1 taps; there may be 2 to 64"),
    (with_mixer(ShortConvolution(32, 65)), "a convolution of 65 taps"),
    (with_mixer(ShortConvolution(0, 3)), "width is 0"),
    (replace(with_mixer(ShortConvolution(32, 3)), bidirectional_prompt=True), "a prompt whose tokens see each other, in recurrent layers"),
    (with_attention(temperature=Temperature(0.1, 0)), "layer 1: length is 0"),
    (with_attention(temperature=Temperature(float("nan"), 8)), "layer 1: temperature grows by nan"),
    (replace(SPEC, layers=(replace(LAYER, parallel=True, mlp_post_norm=NORM),)), "attention and mlp are parallel"),
    (replace(SPEC, layers=(replace(LAYER, mlp=replace(MOE, experts=2**17 + 4)),)), "131076 experts in all layers together"),
]


@pytest.mark.parametrize("spec", POSSIBLE)
def test_what_can_be_passes(spec: ModelSpec) -> None:
    check(spec, "here")


@pytest.mark.parametrize(("spec", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_what_cannot_be_is_named(spec: ModelSpec, message: str) -> None:
    with pytest.raises(
        ModelFileError, match=f"^here: no such made-up model can be: (layer [01]: )?{re.escape(message.removeprefix('layer 1: '))}"
    ):
        check(spec, "here")


def test_every_field_that_a_spec_may_read_is_one_of_the_weights() -> None:
    """And every field of the weights is read by some spec."""
    norms = dict.fromkeys(("attention_post_norm", "mlp_post_norm", "attention_sum_norm", "mlp_sum_norm"), NORM)
    full = replace(ATTEND, query_norm=NORM, key_norm=NORM, sinks=True, value_gate=4, gated=True)
    latent = replace(LATENT, latent=Latent(12, 8, NORM, query_rank=6))
    router = replace(MOE.router, corrected=True, rescaled=True)
    moe = replace(MOE, router=router, shared=Mlp(64, "silu"), shared_gated=True, branch_norm=NORM)
    whole = replace(LAYER, mixer=full, remixed=True, rescaled=True, per_layer=PerLayer(4, "silu", NORM), **norms)
    net, convolution = GatedDeltaNet(2, 4, 8, 8, 4, NORM), ShortConvolution(32, 3)
    layers = (whole, replace(LAYER, mixer=latent, mlp=moe), replace(LAYER, mixer=net), replace(LAYER, mixer=convolution))
    embedding = Embedding(norm=NORM, positions=Positions(64), width=16, smear=4)
    spec = replace(SPEC, layers=layers, embedding=embedding, tied=False, backout=0)
    read = set(outer_fields(spec)) | {"layers." + field for layer in layers for field in layer_fields(layer)}
    known = {"layers." + path for path in paths(LayerWeights)} | {path for path in paths(Weights) if path != "layers"}
    assert read | {"layers.attention.temperatures"} == known  # which are computed


def paths(kind: Any) -> set[str]:
    """Every path to a tensor of a dataclass of weights."""
    inner = {"attention": AttentionWeights, "mlp": MlpWeights, "experts": MlpWeights}
    inner |= {"delta_net": DeltaNetWeights, "convolution": ConvolutionWeights}
    found = set()
    for name, annotation in kind.__annotations__.items():
        if name in inner and kind is LayerWeights:
            found |= {f"{name}.{path}" for path in paths(inner[name])}
        elif "Linear" in annotation:
            found |= {f"{name}.matrix", f"{name}.bias"}
        elif "NormWeights" in annotation or "FilterWeights" in annotation:
            found |= {f"{name}.weight", f"{name}.bias"}
        else:
            found.add(name)
    return found
