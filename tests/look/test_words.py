"""Every choice of a spec is said: changing any field of any dataclass changes the words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from linnet.arch import rope_spec
from linnet.arch import spec as specs
from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling
from linnet.arch.spec import (
    Attention,
    Embedding,
    GatedDeltaNet,
    Latent,
    Layer,
    Mlp,
    ModelSpec,
    Moe,
    Norm,
    Output,
    PerLayer,
    Positions,
    Router,
    ShortConvolution,
    Temperature,
)
from linnet.look.phrases import joined, number, numbers
from linnet.look.words import describe

NORM = Norm(1e-5)
SCALINGS: list[RopeScaling] = [
    LinearScaling(4.0),
    DynamicScaling(2.0),
    YarnScaling(4.0, 1024, 1.1, 32.0, 1.0, True),
    Llama3Scaling(8.0, 1.0, 4.0, 1024),
    FactorScaling((1.0, 2.0, 3.0, 4.0)),
    LongScaling((1.0, 2.0), (3.0, 4.0), 1024, 1.2),
]
ATTENTION = Attention(
    heads=8,
    kv_heads=2,
    head_dim=16,
    ropes=(Rope(8, 1e4, 2048),),
    scale=0.25,
    window=64,
    query_norm=NORM,
    key_norm=NORM,
    value_dim=24,
    alibi=(0.5, 0.25),
    softcap=50.0,
    latent=Latent(32, 4, NORM, 48),
    value_gate=12,
    temperature=Temperature(0.1, 8192),
)
MOE = Moe(8, Mlp(32, "silu"), Router(2, groups=4, active_groups=2), Mlp(64, "gelu"))
LAYER = Layer(ATTENTION, MOE, NORM, NORM, NORM, NORM, NORM, NORM)
EMBEDDING = Embedding(2.0, NORM, Positions(512, "learned", 2), 24, 12)
MODEL = ModelSpec("llama", 100, 32, 4096, (LAYER,), NORM, False, EMBEDDING, Output(2.0, 30.0), False, 0)
PLAIN = ModelSpec("llama", 100, 32, 2048, (Layer(Attention(8, 8, 4, (), 0.5), Mlp(64, "relu"), None, None),) * 3, None, True)

WHERE_IT_MATTERS: list[ModelSpec] = [
    MODEL,
    replace(MODEL, layers=(replace(LAYER, mlp=Mlp(48, "silu")),)),
    replace(MODEL, layers=(replace(LAYER, mixer=GatedDeltaNet(2, 4, 8, 16, 4, NORM), per_layer=PerLayer(16, "silu", NORM)),)),
    replace(MODEL, layers=(replace(LAYER, mixer=ShortConvolution(32, 3)),)),
    *(replace(MODEL, layers=(replace(LAYER, mixer=replace(ATTENTION, ropes=(Rope(8, 1e4, 2048, scaling=s),))),)) for s in SCALINGS),
]
"""A spec that makes every choice, and others for those that exclude each other."""


def others(hint: Any, value: Any) -> Iterator[Any]:
    """Other values of a type; of what is nested, with one field of it changed."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if NoneType in options and value is not None:
        yield None
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        for f in fields(value):
            yield from (replace(value, **{f.name: other}) for other in others(hints[f.name], getattr(value, f.name)))
    elif isinstance(value, tuple):
        yield from ((*value[:-1], other) for other in others(get_args(next(o for o in options if o is not NoneType))[0], value[-1]))
    elif any(get_origin(option) is Literal for option in options):
        yield from (choice for option in options for choice in get_args(option) if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield 2 * value + 1
    elif isinstance(value, str):
        yield f"{value}2"


def said(spec: ModelSpec) -> str:
    return "\n".join(f"{section.title}: {section.facts}" for section in describe(spec))


@pytest.mark.parametrize("spec", WHERE_IT_MATTERS, ids=range(len(WHERE_IT_MATTERS)))
def test_every_choice_is_said(spec: ModelSpec) -> None:
    words, variants = said(spec), list(others(ModelSpec, spec))
    assert len(variants) > 60
    for variant in variants:
        assert said(variant) != words, f"not said (see linnet/look): {difference(spec, variant)}"


def difference(one: Any, other: Any, path: str = "spec") -> str:
    if is_dataclass(one) and type(one) is type(other):
        pairs = [(f"{path}.{f.name}", getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = [(path, a, b) for a, b in zip(one, other, strict=True)]
    else:
        return f"{path}: {one} or {other}"
    return next(difference(a, b, where) for where, a, b in pairs if a != b)


def test_no_field_is_left_out_of_the_test() -> None:
    """A new class in spec.py has to appear in the specs above, or its words are not tested."""
    seen: set[type] = set()

    def visit(value: Any) -> None:
        if is_dataclass(value):
            seen.add(type(value))
            for f in fields(value):
                visit(getattr(value, f.name))
        elif isinstance(value, tuple):
            for item in value:
                visit(item)

    for spec in WHERE_IT_MATTERS:
        visit(spec)
    assert {kind for module in (specs, rope_spec) for kind in vars(module).values() if is_dataclass(kind)} == seen


def test_what_a_model_does_not_have_is_not_said() -> None:
    words = said(PLAIN)
    for word in ("norm (", "expert", "window", "ALiBi", "capped", "latent", "sink", "scaling", "positions", "projected"):
        assert word not in words, word
    assert "tied" in words


def test_layers_of_several_kinds_share_what_they_share() -> None:
    slid, full = replace(ATTENTION, window=64), replace(ATTENTION, window=None)
    layers = tuple(Layer(slid if index % 6 != 5 else full, Mlp(64, "silu"), NORM, NORM) for index in range(13))
    sections = {section.title: section.facts for section in describe(replace(MODEL, layers=layers))}
    assert sections["layers 0 to 4, 6 to 10, 12"] == {"attention": ["sees the last 64 tokens"]}
    assert sections["layers 5, 11"] == {"attention": ["sees all that came before"]}
    assert "feed-forward" in sections["every layer"]


def test_phrases() -> None:
    assert [number(value) for value in (5e5, 1e-6, 0.25, 1.0, 3, 0.1768129)] == ["500000", "1e-06", "0.25", "1", "3", "0.176813"]
    assert numbers([0, 1, 2, 3]) == "0 to 3"
    assert numbers([4]) == "4"
    assert numbers([0, 1, 5, 6, 7, 9]) == "0, 1, 5 to 7, 9"
    assert numbers(range(1, 30, 3)) == "1, 4, 7 ... 28"
    assert (joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
