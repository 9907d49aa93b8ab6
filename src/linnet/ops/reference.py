"""The reference op set: NumPy, float32, slow. It is the oracle, so each op is written as its definition.

Whatever rounds in an order that a library may choose (sums, exponentials) is computed row by row in fixed shapes, and
without BLAS, which splits sums by thread count: so a row's bits never depend on the rows beside it, nor on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linnet.arch.rope import angles, rotary_positions
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Activation, Attention, GatedDeltaNet, ModelSpec, Moe, Norm, Output, Router
from linnet.errors import InvalidRequestError
from linnet.load.dequantize import dequantize
from linnet.load.encode import encoded
from linnet.ops.base import PAGE_SIZE, Batch, Step
from linnet.ops.cache_types import KV_TYPES, rounded
from linnet.ops.sampling import sample
from linnet.ops.states import state_runs
from linnet.tensors import F16, RawTensor, TensorType
from linnet.weights import FilterWeights, MlpWeights, NormWeights

X = NDArray[np.float32]


@dataclass
class LayerCache:
    """Keys and values of one layer, float32 [pages, PAGE_SIZE, kv_heads, head_dim or value_dim], keys already rotated; they hold
    what the cache's type leaves of a number. group: whose page tables say where."""

    group: int
    keys: X
    values: X

    def copy(self, source: int, target: int) -> None:
        self.keys[target], self.values[target] = self.keys[source], self.values[source]


@dataclass
class LayerStates:
    """The states of one recurrent layer, float32 [pages, state_size]."""

    group: int
    states: X

    def copy(self, source: int, target: int) -> None:
        self.states[target] = self.states[source]


class ReferenceOps:
    """`Ops` in NumPy. Matrices and vectors are float32 arrays; X is a float32 array [rows, width]."""

    name = "reference"
    keeps_bits = True

    def __init__(self) -> None:
        self.cache: dict[int, LayerCache | LayerStates] = {}
        self.kv_type = F16
        self.spec: ModelSpec
        self.batch: Batch

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> X:
        if target is not None and target != raw.type:
            raw = encoded(raw, target)
        return dequantize(raw)

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> X:
        return np.stack([self.matrix(raw, target) for raw in raws])

    def vector(self, raw: RawTensor) -> X:
        return dequantize(raw)

    def owns(self, matrix: X) -> bool:
        return True

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], X]) -> Step:
        def step(batch: Batch) -> X:
            self.begin(spec, batch)
            return build()

        return step

    def begin(self, spec: ModelSpec, batch: Batch) -> None:
        """What follows refers to this batch."""
        self.spec, self.batch = spec, batch

    # ---- ops of a forward
    def embed(self, table: X, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> X:
        if source == "previous":
            previous = self.batch.previous
            return np.where(previous[:, None] >= 0, table[previous], np.float32(0))
        return table[self.batch.tokens if source == "tokens" else self.batch.positions + offset]

    def norm(self, x: X, weights: NormWeights, norm: Norm, groups: int = 1) -> X:
        out = np.empty_like(x)
        for row, result in zip(x, out, strict=True):
            parts = row.reshape(groups, -1)
            if norm.kind == "layer":
                parts = parts - np.mean(parts, axis=1, keepdims=True)
            mean_square = np.mean(parts * parts, axis=1, keepdims=True)
            parts = parts / np.sqrt(mean_square + np.float32(norm.epsilon))
            for vector, apply in ((weights.weight, np.multiply), (weights.bias, np.add)):
                if vector is not None:
                    parts = apply(parts, vector.reshape(-1, parts.shape[1]))  # one for all parts, or one each
            result[:] = parts.ravel()
        return out

    def linear(self, x: X, matrix: X, bias: X | None) -> X:
        out = np.empty((len(x), len(matrix)), np.float32)
        for row, result in zip(x, out, strict=True):
            np.einsum("oi,i->o", matrix, row, out=result)
        return out if bias is None else out + bias

    def rotate(self, x: X, rope: Rope, head_dim: int) -> X:
        batch = self.batch
        positions = rotary_positions(rope, batch.positions, batch.prompt_lengths[batch.sequence])
        cosines, sines = angles(rope, positions, batch.rope_lengths[batch.sequence])
        out = x.copy()
        heads, source = (a.reshape(len(x), -1, head_dim)[..., rope.start : rope.start + rope.dim] for a in (out, x))
        half = rope.dim // 2
        first = slice(0, rope.dim, 2) if rope.interleaved else slice(0, half)
        second = slice(1, rope.dim, 2) if rope.interleaved else slice(half, rope.dim)
        cos, sin = cosines[:, None], sines[:, None]
        heads[..., first] = source[..., first] * cos - source[..., second] * sin
        heads[..., second] = source[..., second] * cos + source[..., first] * sin
        return out

    def attend(self, q: X, k: X | None, v: X | None, layer: int, attention: Attention, sinks: X | None) -> X:
        cache, batch = self.cache[layer], self.batch
        assert isinstance(cache, LayerCache)
        tables = batch.page_table[cache.group, batch.sequence]  # [n, widest]
        pages = tables[np.arange(len(q)), batch.positions // PAGE_SIZE]
        assert (pages >= 0).all(), "a position without a page"
        for store, x in ((cache.keys, k), (cache.values, v)):
            if x is None:
                continue
            store[pages, batch.positions % PAGE_SIZE] = rounded(x.reshape(len(x), attention.kv_heads, -1), self.kv_type)
        last = batch.positions
        if self.spec.bidirectional_prompt:
            last = np.maximum(last, batch.prompt_lengths[batch.sequence] - 2)
        out = np.empty((len(q), attention.output_width), np.float32)
        for row, position, end, table, result in zip(q, batch.positions.tolist(), last.tolist(), tables, out, strict=True):
            result[:] = attend_row(row, position, end, table, cache, attention, sinks)
        return out

    def convolve(self, x: X, weights: FilterWeights, layer: int, taps: int, start: int = 0) -> X:
        cache, (count, width) = self.cache[layer], x.shape
        assert isinstance(cache, LayerStates)
        weight, out = weights.weight.reshape(width, taps), np.empty((count, width), np.float32)
        entries = slice(start, start + (taps - 1) * width)
        for run in state_runs(self.batch, cache.group):
            past = np.zeros((taps - 1, width), np.float32) if run.source is None else cache.states[run.source, entries].reshape(-1, width)
            inputs, result = np.concatenate([past, x[run.rows]]), out[run.rows]
            result[:] = 0
            for tap in range(taps):
                result += weight[:, tap] * inputs[tap : tap + len(result)]
            for row, page in run.saved:
                cache.states[page, entries] = inputs[row + 1 : row + taps].ravel()
        return out if weights.bias is None else out + weights.bias

    def delta_rule(self, q: X, k: X, v: X, rate: X, strength: X, decay: X, layer: int, mixer: GatedDeltaNet) -> X:
        cache, shape, out = self.cache[layer], (mixer.value_heads, mixer.key_dim, mixer.value_dim), np.empty_like(v)
        assert isinstance(cache, LayerStates)
        shares = mixer.value_heads // mixer.key_heads
        kept = np.exp(-decay * np.logaddexp(np.float32(0), rate))  # g, [n, value_heads]
        for run in state_runs(self.batch, cache.group):
            state = np.zeros(shape, np.float32)
            if run.source is not None:
                state[:] = cache.states[run.source, -state.size :].reshape(shape)
            saved = dict(run.saved)
            for number, row in enumerate(range(run.rows.start, run.rows.stop)):
                query, key = (np.repeat(x[row].reshape(mixer.key_heads, -1, 1), shares, axis=0) for x in (q, k))
                state *= kept[row, :, None, None]
                error = v[row].reshape(mixer.value_heads, -1) - (key * state).sum(axis=1)
                state += key * (strength[row, :, None] * error)[:, None]
                out[row] = (query * state).sum(axis=1).ravel()
                if number in saved:
                    cache.states[saved[number], -state.size :] = state.ravel()
        return out

    def experts(self, x: X, logits: X, weights: MlpWeights, moe: Moe, correction: X | None, scale: X | None = None) -> X:
        out = np.zeros_like(x)
        for row, scores, result in zip(x, logits, out, strict=True):
            for expert, share in route(scores, moe.router, correction):
                share = share if scale is None else share * scale[expert]
                result += share * self._expert(row[None], weights, moe, expert)[0]
        return out

    def _expert(self, x: X, weights: MlpWeights, moe: Moe, expert: int) -> X:
        def project(x: X, name: str) -> X:
            linear = getattr(weights, name)
            return self.linear(x, linear.matrix[expert], None if linear.bias is None else linear.bias[expert])

        if moe.expert.gated:
            return project(self.gate(project(x, "gate"), project(x, "up"), moe.expert.activation), "down")
        return project(self.activate(project(x, "up"), moe.expert.activation), "down")

    def activate(self, x: X, activation: Activation) -> X:
        out = np.empty_like(x)
        for row, result in zip(x, out, strict=True):
            result[:] = sigmoid(row) if activation == "sigmoid" else row * GATES[activation](row)
        return out

    def gate(self, gate: X, up: X, activation: Activation) -> X:
        if activation == "clamped_swiglu":
            gate, up = np.minimum(gate, np.float32(7)), np.clip(up, np.float32(-7), np.float32(7))
            return gate * sigmoid(np.float32(1.702) * gate) * (up + 1)
        return self.activate(gate, activation) * up

    def add(self, a: X, b: X, a_scale: float = 1.0, b_scale: float = 1.0) -> X:
        return a * np.float32(a_scale) + b * np.float32(b_scale)

    def scale(self, x: X, factor: Any) -> X:
        return x * np.float32(factor) if isinstance(factor, float) else x * factor

    def weigh(self, x: X, weights: X) -> X:
        return (x.reshape(*weights.shape, -1) * weights[..., None]).reshape(x.shape)

    def columns(self, x: X, start: int, count: int) -> X:
        return x[:, start : start + count]

    def append_shared(self, x: X, shared: X, heads: int) -> X:
        parts = x.reshape(len(x), heads, -1)
        return np.concatenate([parts, np.repeat(shared[:, None], heads, axis=1)], axis=2).reshape(len(x), -1)

    def take(self, x: X) -> X:
        return x[self.batch.rows]

    def logits(self, x: X, matrix: X, bias: X | None, output: Output) -> X:
        logits = self.linear(x, matrix, bias) * np.float32(output.scale)
        return logits if output.softcap is None else softcap(logits, output.softcap)

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        if kv_dtype not in KV_TYPES:
            raise InvalidRequestError(f"kv_dtype {kv_dtype!r} is not one of {', '.join(KV_TYPES)}")
        self.kv_type = KV_TYPES[kv_dtype]
        self.cache = {}
        for index in spec.kv_layers:
            attention, group = spec.layers[index].mixer, groups[index] if groups else 0
            if not isinstance(attention, Attention):
                self.cache[index] = LayerStates(group, np.zeros((pages[group], attention.state_size), np.float32))
                continue
            keys, values = (
                np.zeros((pages[group], PAGE_SIZE, attention.kv_heads, width), np.float32)
                for width in (attention.head_dim, attention.value_head_dim)
            )
            self.cache[index] = LayerCache(group, keys, values)

    def free_cache(self) -> None:
        self.cache = {}

    def copy_page(self, source: int, target: int, group: int) -> None:
        for layer in self.cache.values():
            if layer.group == group:
                layer.copy(source, target)

    sample = staticmethod(sample)


def attend_row(row: X, position: int, end: int, table: NDArray[np.int32], cache: LayerCache, attention: Attention, sinks: X | None) -> X:
    """softmax(q k * scale) v of one row [heads * head_dim] over the positions it sees, up to `end`; query heads share kv heads in
    order."""
    first = 0 if attention.window is None else max(0, position + 1 - attention.window)
    pages = table[first // PAGE_SIZE : end // PAGE_SIZE + 1]
    start = first % PAGE_SIZE  # of the first page
    seen = slice(start, start + end + 1 - first)
    keys, values = (a[pages].reshape(-1, *a.shape[2:])[seen] for a in (cache.keys, cache.values))
    queries = row.reshape(attention.kv_heads, -1, attention.head_dim)
    scores = np.einsum("kgd,pkd->kgp", queries, keys) * np.float32(attention.scale)
    if attention.alibi is not None:
        slopes = np.array(attention.alibi, np.float32).reshape(attention.kv_heads, -1, 1)
        scores = scores + slopes * np.arange(first - position, end + 1 - position, dtype=np.float32)
    if attention.softcap is not None:
        scores = softcap(scores, attention.softcap)
    largest = scores.max(axis=2, keepdims=True)
    if sinks is not None:
        sink_scores = sinks.reshape(attention.kv_heads, -1, 1)
        largest = np.maximum(largest, sink_scores)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=2, keepdims=True)
    weights /= total if sinks is None else total + np.exp(sink_scores - largest)
    result: X = np.einsum("kgp,pkd->kgd", weights, values).reshape(-1)
    return result


def route(scores: X, router: Router, correction: X | None) -> list[tuple[int, np.float32]]:
    """The experts of one token by descending score, and the weight of each (see `Router`). scores: float32 [experts]."""
    if router.scoring == "softmax":
        exponentials = np.exp(scores - scores.max())
        scores = exponentials / exponentials.sum()
    elif router.scoring == "sigmoid":
        scores = sigmoid(scores)
    choice = scores if correction is None else scores + correction
    if router.groups > 1:
        groups = np.sort(choice.reshape(router.groups, -1), axis=1)
        worth = groups[:, -2:].sum(axis=1) if router.scoring == "sigmoid" else groups[:, -1]
        best = np.argsort(-worth, kind="stable")[: router.active_groups]
        allowed = np.repeat(np.isin(np.arange(router.groups), best), groups.shape[1])
        choice = np.where(allowed, choice, np.float32(-np.inf))
    chosen = np.argsort(-choice, kind="stable")[: router.active]
    weights = scores[chosen]
    if router.scoring == "softmax_chosen":
        exponentials = np.exp(weights - weights.max())
        weights = exponentials / exponentials.sum()
    elif router.normalise:
        weights = weights / (weights.sum() + np.float32(1e-20 if router.scoring == "sigmoid" else 0))
    return list(zip(chosen.tolist(), weights * np.float32(router.scale), strict=True))


def softcap(x: X, cap: float) -> X:
    capped: X = np.float32(cap) * np.tanh(x / np.float32(cap))
    return capped


def sigmoid(x: X) -> X:
    with np.errstate(over="ignore"):  # exp(-x) may be infinite, and its inverse is then the right zero
        gate: X = np.reciprocal(1 + np.exp(-x))
    return gate


def normal_cdf(x: X) -> X:
    return np.array([0.5 + 0.5 * math.erf(v / math.sqrt(2)) for v in x.tolist()], np.float32)


def normal_cdf_tanh(x: X) -> X:
    """The approximation of Hendrycks & Gimpel 2016."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    gate: X = np.float32(0.5) * (1 + np.tanh(inner))
    return gate


def step(x: X) -> X:
    return (x > 0).astype(np.float32)


def positive(x: X) -> X:
    return np.maximum(x, np.float32(0))


GATES: dict[Activation, Callable[[X], X]] = {
    "silu": sigmoid,
    "gelu": normal_cdf,
    "gelu_tanh": normal_cdf_tanh,
    "relu": step,
    "relu_squared": positive,
}
"""What multiplies x in the activations that are x times a function of x."""
