"""Shows what every matrix of a model is multiplied with on a text: runs the native op set one op at a time, with an observer in between.

So prompts run at the speed of native kernels, and mixtures of experts expert by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linnet import _core
from linnet.arch.spec import Attention, ModelSpec, Moe, Norm, Output
from linnet.forward import forward
from linnet.load.checkpoint import Checkpoint
from linnet.load.dequantize import dequantize
from linnet.ops.base import PAGE_SIZE, Batch, Step
from linnet.ops.native import NativeOps, frequencies_of_requests
from linnet.ops.reference import route
from linnet.tensors import RawTensor, TensorType
from linnet.weights import FilterWeights, Linear, MlpWeights, NormWeights, Weights

X = NDArray[np.float32]
Observer = Callable[[Any, X], object]
"""Called with a matrix and its input, float32 [rows, columns]."""


def run_observed(
    checkpoint: Checkpoint, texts: Sequence[Sequence[int]], observe: Observer, threads: int | None, advance: Callable[[int], object]
) -> Weights:
    """Runs texts of token ids through the model; the matrices that `observe` sees are those of the weights returned (of experts, the
    entries of lists). advance: called with numbers of tokens that are done."""
    ops, spec = ObservedOps(observe, threads), checkpoint.spec
    weights = checkpoint.assemble(ops)
    ops.native.allocate_cache(spec, [-(-max(map(len, texts)) // PAGE_SIZE)], "f32")
    step = ops.stepper(spec, partial(forward, ops, spec, weights))  # type: ignore[arg-type]
    for ids in texts:
        step(_batch(ids))
        advance(len(ids))
    ops.native.free_cache()
    return weights


def _batch(ids: Sequence[int]) -> Batch:
    """A batch of one sequence from its beginning, with the logits of all rows wanted: so every op has as many rows as the batch."""
    count = len(ids)
    tokens, rows, length = np.array(ids, np.int32), np.arange(count, dtype=np.int32), np.array([count], np.int32)
    pages = np.arange(-(-count // PAGE_SIZE), dtype=np.int32)[None, None]
    previous = np.concatenate(([-1], tokens[:-1])).astype(np.int32)
    return Batch(tokens, rows, previous, np.zeros_like(rows), pages, length, length, rows)


class ObservedOps:
    """`Ops` over NumPy arrays: every op is recorded and run as a tape of its own, with its inputs as constants. Gives no logits."""

    name = "native"
    keeps_bits = True

    def __init__(self, observe: Observer, threads: int | None = None) -> None:
        self.native, self.observe = NativeOps(threads), observe
        self.spec: ModelSpec
        self.batch: Batch

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> _core.Matrix:
        return self.native.matrix(raw, target)

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> list[_core.Matrix]:
        return [self.native.matrix(raw, target) for raw in raws]

    def vector(self, raw: RawTensor) -> X:
        return dequantize(raw).reshape(-1)

    def owns(self, matrix: Any) -> bool:
        return all(map(self.native.owns, matrix if isinstance(matrix, list) else [matrix]))

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], X]) -> Step:
        def step(batch: Batch) -> X:
            self.spec, self.batch = spec, batch
            return build()

        return step

    def __getattr__(self, name: str) -> Callable[..., X]:
        """Every op without a method here: computed by the native op set."""
        return partial(self._run, name)

    def _run(self, name: str, *arguments: Any) -> X:
        """Arrays of rows go on the tape, vectors become the core's."""
        native, batch = self.native, self.batch
        rows = [argument for argument in arguments if isinstance(argument, np.ndarray) and argument.ndim == 2]
        if rows and len(rows[0]) != len(batch.tokens):
            batch = _batch([0] * len(rows[0]))  # an expert's rows: what comes from the batch is not for them
        native.begin(self.spec)
        result = getattr(native, name)(*(self._native(argument) for argument in arguments))
        rotations = [frequencies_of_requests(rope, batch.rope_lengths) for rope in native.varying]
        arrays = (batch.tokens, batch.positions, batch.previous, batch.sequence, batch.page_table, batch.prompt_lengths, batch.rows)
        made: X = native.tape.run(result, native.cache, *arrays, rotations)
        return made

    def _native(self, argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            return self.native.tape.constant(argument) if argument.ndim == 2 else _core.Vector(argument)
        if isinstance(argument, (NormWeights, FilterWeights)):
            return type(argument)(*(None if vector is None else _core.Vector(vector) for vector in (argument.weight, argument.bias)))
        return argument

    # ---- ops with something to observe, or of other arguments
    def linear(self, x: X, matrix: _core.Matrix, bias: X | None) -> X:
        self.observe(matrix, x)
        return self._run("linear", x, matrix, bias)

    def logits(self, x: X, matrix: _core.Matrix, bias: X | None, output: Output) -> X:
        self.observe(matrix, x)
        return np.empty((0, 0), np.float32)

    def embed(self, table: _core.Matrix, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> X:
        return self._run("embed", table, source, offset)

    def norm(self, x: X, weights: NormWeights, norm: Norm, groups: int = 1) -> X:
        return self._run("norm", x, weights, norm, groups)

    def attend(self, q: X, k: X | None, v: X | None, layer: int, attention: Attention, sinks: X | None) -> X:
        return self._run("attend", q, k, v, layer, attention, sinks)

    def take(self, x: X) -> X:
        return x

    def experts(self, x: X, logits: X, weights: MlpWeights, moe: Moe, correction: X | None, scale: X | None = None) -> X:
        out = np.zeros_like(x)
        chosen: dict[int, list[tuple[int, np.float32]]] = {}
        for row, scores in enumerate(logits):
            for expert, share in route(scores, moe.router, correction):
                chosen.setdefault(expert, []).append((row, share if scale is None else share * scale[expert]))
        for expert, takers in chosen.items():
            rows, shares = [row for row, _ in takers], np.array([share for _, share in takers], np.float32)
            out[rows] += shares[:, None] * self._expert(np.ascontiguousarray(x[rows]), weights, moe, expert)
        return out

    def _expert(self, x: X, weights: MlpWeights, moe: Moe, expert: int) -> X:
        def project(x: X, linear: Linear) -> X:
            bias = None if linear.bias is None else linear.bias.reshape(moe.experts, -1)[expert]
            return self.linear(x, linear.matrix[expert], bias)

        if weights.gate is not None:
            gate, up = project(x, weights.gate), project(x, weights.up)
            return project(self._run("gate", gate, up, moe.expert.activation), weights.down)
        return project(self._run("activate", project(x, weights.up), moe.expert.activation), weights.down)
