"""A made-up model of one or two layers, for tests of loading: its specs, tables and tensors, in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Moe, Norm, Router
from linnet.arch.table import ATTENTION, GATED_MLP, Part, Row, Stored, layer_row, standard_table
from linnet.load.assemble import assemble
from linnet.load.encode import encode
from linnet.load.memory import MemorySource
from linnet.ops.reference import ReferenceOps
from linnet.tensors import RawTensor, TensorType
from linnet.weights import Weights

NORM = Norm(1e-5)
HIDDEN, WIDTH, EXPERTS = 32, 64, 4
ATTEND = Attention(4, 2, 16, (), 0.25)
DENSE = Layer(ATTEND, Mlp(WIDTH, "silu"), NORM, NORM)
MIXED = replace(DENSE, mlp=Moe(EXPERTS, Mlp(WIDTH, "silu"), Router(2)))
Arrays = dict[str, Any]


def spec_of(*layers: Layer, **extra: Any) -> ModelSpec:
    return ModelSpec(
        **({"family": "made-up", "vocab_size": 20, "hidden": HIDDEN, "context": 64, "final_norm": NORM} | extra), layers=layers, tied=True
    )


def arrays(**shapes: tuple[int, ...]) -> Arrays:
    """Tensors of random numbers, "__" for "." in names."""
    random = np.random.default_rng(3)
    return {name.replace("__", "."): random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


OUTSIDE = arrays(model__embed_tokens__weight=(20, HIDDEN), model__norm__weight=(HIDDEN,))


def attention_arrays(layer: int = 0) -> Arrays:
    shapes = {
        "self_attn.q_proj": (64, HIDDEN),
        "self_attn.k_proj": (32, HIDDEN),
        "self_attn.v_proj": (32, HIDDEN),
        "self_attn.o_proj": (HIDDEN, 64),
    }
    shapes |= {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
    return arrays(**{f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()})


def mlp_arrays(layer: int = 0) -> Arrays:
    shapes = {"gate_proj": (WIDTH, HIDDEN), "up_proj": (WIDTH, HIDDEN), "down_proj": (HIDDEN, WIDTH)}
    return arrays(**{f"model.layers.{layer}.mlp.{name}.weight": shape for name, shape in shapes.items()})


def load(spec: ModelSpec, rows: Any, state: Arrays, target: TensorType | None = None) -> Weights:
    return assemble(ReferenceOps(), spec, standard_table(spec, rows), MemorySource(state), target)


class Stores(MemorySource):
    """A source whose tensors are stored in types of their own."""

    def __init__(self, tensors: Arrays, types: dict[str, TensorType]) -> None:
        super().__init__(tensors)
        self.stored = types

    def type(self, name: str) -> TensorType:
        return self.stored.get(name) or super().type(name)

    def read(self, name: str) -> RawTensor:
        return RawTensor(name, self.shape(name), self.type(name), encode(self._tensor(name), self.type(name)).reshape(-1))


SPLIT = "model.layers.{layer}.experts.{expert}."
EXPERT_ROWS = [
    *ATTENTION,
    GATED_MLP[0],
    layer_row("router.matrix", "router", None, "experts", "hidden"),
    Row("layers.experts.gate.matrix", SPLIT + "gate", None, ("experts", "expert_width", "hidden")),
    Row("layers.experts.up.matrix", SPLIT + "up", None, ("experts", "expert_width", "hidden")),
    Row("layers.experts.down.matrix", SPLIT + "down", None, ("experts", "hidden", "expert_width")),
    Row("layers.experts.down.bias", SPLIT + "down_bias", None, ("experts", "hidden"), optional=True),
]


def expert_state(biased: bool = False) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"model.layers.0.router.weight": (EXPERTS, HIDDEN)}
    for expert in range(EXPERTS):
        prefix = f"model.layers.0.experts.{expert}."
        shapes |= {prefix + "gate": (WIDTH, HIDDEN), prefix + "up": (WIDTH, HIDDEN), prefix + "down": (HIDDEN, WIDTH)}
        if biased:
            shapes[prefix + "down_bias"] = (HIDDEN,)
    return OUTSIDE | attention_arrays() | arrays(**shapes)


DENSE_ROWS = [*ATTENTION, *GATED_MLP]
DENSE_STATE = OUTSIDE | attention_arrays() | mlp_arrays()


def packed(part: Part, hf: str = "model.layers.{layer}.qkv.weight", **how: Any) -> Stored:
    return Stored(hf, part, **how)


def packed_rows(query: Stored, key: Stored, value: Stored) -> list[Row]:
    rows = {"query": query, "key": key, "value": value}
    found = [Row(f"layers.attention.{name}.matrix", how, None, (name, "hidden")) for name, how in rows.items()]
    return [ATTENTION[0], *found, ATTENTION[4], *GATED_MLP]


def packed_state(qkv: Any) -> Arrays:
    state = OUTSIDE | attention_arrays() | mlp_arrays()
    for name in ("q_proj", "k_proj", "v_proj"):
        del state[f"model.layers.0.self_attn.{name}.weight"]
    return state | {"model.layers.0.qkv.weight": qkv}
