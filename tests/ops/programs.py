"""Random sequences of ops, for any op set: what a tape may hold, whatever a model of today does with it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from eager import Floats, spec_of
from hypothesis import strategies as st

from linnet.arch.rope_spec import DynamicScaling, Rope
from linnet.arch.spec import Attention, Mlp, ModelSpec, Moe, Norm, Router
from linnet.load.encode import encode
from linnet.ops.native import NativeOps
from linnet.tensors import BF16, F16, F32, Q4_0, Q8_0, RawTensor, TensorType
from linnet.weights import Linear, MlpWeights, NormWeights

TYPES = (F32, F32, F16, BF16, Q8_0, Q4_0)
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")
WIDTHS = (32, 40, 64)
MOST_WIDTH = 200


@dataclass(frozen=True)
class Instruction:
    """One op: its inputs are the results of earlier instructions. width, wanted: of its result's rows. exact: whether the reference
    op set computes the same from the same inputs, to within the rounding of float32."""

    op: str
    inputs: tuple[int, ...]
    arguments: tuple[Any, ...]
    width: int
    wanted: bool
    exact: bool = True


Program = list[Instruction]


def random_floats(*shape: int) -> Floats:
    """Always the same for a shape, and such that a product with it keeps about the size of what goes in."""
    random = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    return (random.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


def tensor(shape: tuple[int, ...], type: TensorType = F32) -> RawTensor:
    return RawTensor("w", shape, type, encode(random_floats(*shape), type).reshape(-1))


def vector(ops: Any, *shape: int) -> Any:
    made = ops.vector(tensor((int(np.prod(shape)),)))
    return made if isinstance(ops, NativeOps) else made.reshape(shape)


def stack(ops: Any, experts: int, rows: int, columns: int, type: TensorType) -> Linear:
    whole = random_floats(experts, rows, columns)
    raws = [RawTensor("w", (rows, columns), type, encode(w, type).reshape(-1)) for w in whole]
    return Linear(ops.stack(raws), vector(ops, experts, rows))


def perform(ops: Any, instruction: Instruction, x: list[Any]) -> Any:
    """What the op set's op gives for these inputs."""
    op, arguments = instruction.op, instruction.arguments
    if op == "embed":
        source, rows, width = arguments
        return ops.embed(ops.matrix(tensor((rows, width))), source)
    if op == "norm":
        kind, groups, width, weighed = arguments
        weights = NormWeights(vector(ops, width), vector(ops, width)) if weighed else NormWeights()
        return ops.norm(x[0], weights, Norm(1e-5, kind), groups)
    if op == "linear":
        shape, type, biased = arguments
        return ops.linear(x[0], ops.matrix(tensor(shape, type)), vector(ops, shape[0]) if biased else None)
    if op == "experts":
        moe, width, type = arguments
        sizes = {"up": (moe.expert.width, width), "gate": (moe.expert.width, width), "down": (width, moe.expert.width)}
        linears = {name: stack(ops, moe.experts, *shape, type) for name, shape in sizes.items() if name != "gate" or moe.expert.gated}
        return ops.experts(x[0], x[1], MlpWeights(**linears), moe, vector(ops, moe.experts) if moe.router.corrected else None)
    if op == "attend":
        return ops.attend(*x, *arguments, None)
    return getattr(ops, op)(*x, *arguments)


def spec_of_program(program: Program) -> ModelSpec:
    """A spec whose layers are the attentions of the program."""
    attentions = [instruction.arguments[1] for instruction in program if instruction.op == "attend"]
    one = spec_of(Attention(1, 1, 8, (), 1.0))
    return replace(one, layers=tuple(spec_of(attention).layers[0] for attention in attentions) or one.layers)


class Writer:
    """Draws a program instruction by instruction."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.program: Program = []

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def add(self, op: str, inputs: Sequence[int], width: int, *arguments: Any, wanted: bool | None = None, exact: bool = True) -> int:
        wanted = self.program[inputs[0]].wanted if wanted is None else wanted
        self.program.append(Instruction(op, tuple(inputs), arguments, width, wanted, exact))
        return len(self.program) - 1

    def any(self, of_batch: bool = False) -> int:
        return int(self.pick([i for i, made in enumerate(self.program) if not (of_batch and made.wanted)]))

    def beside(self, x: int, width: int | None = None) -> int:
        """A value of the same rows, perhaps the same one."""
        like = self.program[x]
        fits = [made.wanted == like.wanted and width in (None, made.width) for made in self.program]
        return int(self.pick([i for i, fit in enumerate(fits) if fit]))

    def linear(self, x: int, width: int) -> int:
        columns = self.program[x].width
        type = self.pick([type for type in TYPES if columns % type.block == 0])
        return self.add("linear", [x], width, (width, columns), type, self.pick([False, True]), exact=type.block == 1)

    def norm(self, x: int, weighed: bool | None = None) -> int:
        width = self.program[x].width
        groups = self.pick([groups for groups in (1, 2, 4) if width % groups == 0 and width // groups > 4] or [1])
        weighed = self.pick([False, True]) if weighed is None else weighed
        return self.add("norm", [x], width, self.pick(["rms", "layer"]), groups, self.pick([width, width // groups]), weighed)

    # ---- what may come next
    def write_elementwise(self) -> None:
        x = self.any()
        width, op = self.program[x].width, self.pick(["activate", "gate", "add", "scale"])
        if op == "activate":
            self.add(op, [x], width, self.pick(ACTIVATIONS))
        elif op == "gate":
            self.add(op, [self.norm(x, False), self.beside(x, width)], width, self.pick(ACTIVATIONS))
        elif op == "add":
            self.add(op, [x, self.beside(x, width)], width, *self.pick([(1.0, 1.0), (1.0, -1.0), (0.5, 0.25)]))
        else:
            self.add(op, [x], width, self.pick([0.5, -1.0]))

    def write_columns(self) -> None:
        x = self.any()
        count = self.pick([count for count in (1, 2, 16, 32) if count <= self.program[x].width])
        start = self.draw(st.integers(0, self.program[x].width - count))
        y = self.add("columns", [x], count, start, count)
        if self.program[x].width % count == 0:
            self.add("weigh", [x, y], self.program[x].width)

    def write_append(self) -> None:
        x = self.any()
        shared = self.beside(x)
        heads = self.pick([heads for heads in (1, 2, 4) if self.program[x].width % heads == 0])
        width = self.program[x].width + heads * self.program[shared].width
        if width <= MOST_WIDTH:
            self.add("append_shared", [x, shared], width, heads)

    def write_linears(self) -> None:
        x = self.any()
        for _ in range(self.pick([1, 2, 3])):
            self.linear(x, self.pick(WIDTHS))

    def write_norm(self) -> None:
        self.norm(self.any())

    def write_take(self) -> None:
        x = self.any(of_batch=True)
        self.add("take", [x], self.program[x].width, wanted=True)

    def write_rotate(self) -> int:
        x = self.any(of_batch=True)
        return self.rotate(x, self.program[x].width)

    def rotate(self, x: int, head_dim: int) -> int:
        dim = self.pick([dim for dim in (0, 2, 8, 16) if dim <= head_dim])
        if not dim:
            return x
        start = self.draw(st.integers(0, head_dim - dim))
        scaling = self.pick([None, DynamicScaling(2.0)])
        rope = Rope(dim, 100.0, 24, self.pick([False, True]), scaling, start, self.pick(["absolute", "prompt", "block"]))
        return self.add("rotate", [x], self.program[x].width, rope, head_dim)

    def write_attend(self) -> None:
        h = self.norm(self.any(of_batch=True), False)
        heads, kv_heads = self.pick([(1, 1), (4, 2), (3, 1)])
        head_dim, value_dim = self.pick([16, 20]), self.pick([8, 16, 33])
        slopes = self.pick([None, tuple(0.1 * (i + 1) for i in range(heads))])
        attention = Attention(heads, kv_heads, head_dim, (), 0.25, self.pick([None, 1, 9, 40]), value_dim=value_dim, alibi=slopes)
        q, k, v = (self.linear(h, width) for width in (heads * head_dim, kv_heads * head_dim, kv_heads * value_dim))
        layer = sum(instruction.op == "attend" for instruction in self.program)
        self.add("attend", [self.rotate(q, head_dim), self.rotate(k, head_dim), v], heads * value_dim, layer, attention)

    def write_experts(self) -> None:
        h = self.norm(self.any(of_batch=True), False)
        width, experts = self.program[h].width, self.pick([1, 4, 8])
        active = self.pick([active for active in (1, 2, 3) if active <= experts])
        groups, active_groups = self.pick([(1, 1), (2, 2), (2, 1), (4, 3)] if experts > 4 and active < 3 else [(1, 1)])
        scoring = self.pick(["softmax", "sigmoid", "softmax_chosen"])
        router = Router(active, scoring, self.pick([False, True]), 1.5, groups, active_groups, scoring == "sigmoid")
        moe = Moe(experts, Mlp(32, self.pick(ACTIVATIONS), self.pick([False, True])), router)
        type = self.pick([type for type in TYPES if width % type.block == 0])
        logits = self.linear(h, experts)
        self.add("experts", [h, logits], width, moe, width, type, exact=type.block == 1)


@st.composite
def programs(draw: st.DrawFn, vocabulary: int, positions: int) -> Program:
    """Programs over batches of tokens below `vocabulary` at positions below `positions`."""
    writer = Writer(draw)
    kinds = [name for name in dir(Writer) if name.startswith("write_")]
    for _ in range(draw(st.integers(1, 3))):
        source = writer.pick(["tokens", "previous", "positions"])
        rows, width = positions if source == "positions" else vocabulary, writer.pick(WIDTHS)
        writer.add("embed", [], width, source, rows, width, wanted=False)
    for _ in range(draw(st.integers(1, 10))):
        getattr(writer, writer.pick(kinds))()
    return writer.program
