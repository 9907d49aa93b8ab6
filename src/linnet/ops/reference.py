"""The reference op set: NumPy, float32, slow. It is the oracle, so each op is written as its definition.

Whatever rounds in an order that a library may choose (sums, exponentials) is computed row by row in fixed shapes, and
without BLAS, which splits sums by thread count: so a row's bits never depend on the rows beside it, nor on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnet.arch.rope import angles
from linnet.arch.spec import Activation, Attention, ModelSpec, Norm, Rope
from linnet.errors import InvalidRequestError
from linnet.load.dequantize import dequantize, quantize
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.sampling import sample
from linnet.tensors import RawTensor, TensorType

X = NDArray[np.float32]

KV_DTYPES: dict[str, type[np.float16] | type[np.float32]] = {"f16": np.float16, "f32": np.float32}


@dataclass
class LayerCache:
    """Keys and values of one layer, each [pages, PAGE_SIZE, kv_heads, head_dim], keys already rotated."""

    keys: NDArray[np.floating]
    values: NDArray[np.floating]


class ReferenceOps:
    """`Ops` in NumPy. Matrices and vectors are float32 arrays; X is a float32 array [rows, width]."""

    name = "reference"

    def __init__(self) -> None:
        self.cache: list[LayerCache] = []
        self.batch: Batch

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> X:
        if target is not None and target != raw.type:
            raw = RawTensor(raw.name, raw.shape, target, quantize(dequantize(raw), target))
        return dequantize(raw)

    def vector(self, raw: RawTensor) -> X:
        return dequantize(raw)

    def owns(self, matrix: X) -> bool:
        return True

    # ---- one step
    def begin(self, spec: ModelSpec, batch: Batch) -> None:
        self.batch = batch

    def embed(self, table: X) -> X:
        return table[self.batch.tokens]

    def norm(self, x: X, weight: X, norm: Norm, groups: int = 1) -> X:
        out = np.empty_like(x)
        for row, result in zip(x, out, strict=True):
            parts = row.reshape(groups, -1)
            mean_square = np.mean(parts * parts, axis=1, keepdims=True)
            result[:] = (weight * (parts / np.sqrt(mean_square + np.float32(norm.epsilon)))).ravel()
        return out

    def linear(self, x: X, matrix: X, bias: X | None) -> X:
        out = np.empty((len(x), len(matrix)), np.float32)
        for row, result in zip(x, out, strict=True):
            np.einsum("oi,i->o", matrix, row, out=result)
        return out if bias is None else out + bias

    def rotate(self, x: X, rope: Rope, head_dim: int) -> X:
        cosines, sines = angles(rope, self.batch.positions, self.batch.rope_lengths[self.batch.sequence])
        out = x.copy()
        heads, source = (a.reshape(len(x), -1, head_dim) for a in (out, x))
        half = rope.dim // 2
        first = slice(0, rope.dim, 2) if rope.interleaved else slice(0, half)
        second = slice(1, rope.dim, 2) if rope.interleaved else slice(half, rope.dim)
        cos, sin = cosines[:, None], sines[:, None]
        heads[..., first] = source[..., first] * cos - source[..., second] * sin
        heads[..., second] = source[..., second] * cos + source[..., first] * sin
        return out

    def attend(self, q: X, k: X, v: X, layer: int, attention: Attention) -> X:
        cache, batch = self.cache[layer], self.batch
        tables = batch.page_table[batch.sequence]  # [n, widest]
        pages = tables[np.arange(len(q)), batch.positions // PAGE_SIZE]
        assert (pages >= 0).all(), "a position without a page"
        cache.keys[pages, batch.positions % PAGE_SIZE] = k.reshape(len(k), attention.kv_heads, -1)
        cache.values[pages, batch.positions % PAGE_SIZE] = v.reshape(len(v), attention.kv_heads, -1)
        out = np.empty_like(q)
        for row, position, table, result in zip(q, batch.positions.tolist(), tables, out, strict=True):
            result[:] = attend_row(row, position, table, cache, attention)
        return out

    def activate(self, x: X, activation: Activation) -> X:
        out = np.empty_like(x)
        for row, result in zip(x, out, strict=True):
            result[:] = row * GATES[activation](row)
        return out

    def gate(self, gate: X, up: X, activation: Activation) -> X:
        return self.activate(gate, activation) * up

    def add(self, a: X, b: X) -> X:
        return a + b

    def take(self, x: X) -> X:
        return x[self.batch.rows]

    def logits(self, x: X, matrix: X) -> X:
        return self.linear(x, matrix, None)

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: int, kv_dtype: str) -> None:
        if kv_dtype not in KV_DTYPES:
            raise InvalidRequestError(f"kv_dtype {kv_dtype!r} is not one of {', '.join(KV_DTYPES)}")
        shapes = [(pages, PAGE_SIZE, layer.attention.kv_heads, layer.attention.head_dim) for layer in spec.layers]
        self.cache = [LayerCache(*(np.zeros(shape, KV_DTYPES[kv_dtype]) for _ in range(2))) for shape in shapes]

    def free_cache(self) -> None:
        self.cache = []

    def sample(self, logits: X, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> int:
        return sample(logits, temperature, top_k, top_p, min_p, uniform)


def attend_row(row: X, position: int, table: NDArray[np.int32], cache: LayerCache, attention: Attention) -> X:
    """softmax(q k * scale) v of one row [heads * head_dim] over the positions it sees; query heads share kv heads in order."""
    first = 0 if attention.window is None else max(0, position + 1 - attention.window)
    pages = table[first // PAGE_SIZE : position // PAGE_SIZE + 1]
    start = first % PAGE_SIZE  # of the first page
    seen = slice(start, start + position + 1 - first)
    keys, values = (a[pages].reshape(-1, *a.shape[2:])[seen].astype(np.float32) for a in (cache.keys, cache.values))
    queries = row.reshape(attention.kv_heads, -1, attention.head_dim)
    scores = np.einsum("kgd,pkd->kgp", queries, keys) * np.float32(attention.scale)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    result: X = np.einsum("kgp,pkd->kgd", weights, values).reshape(-1)
    return result


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


GATES: dict[Activation, Callable[[X], X]] = {"silu": sigmoid, "gelu": normal_cdf, "gelu_tanh": normal_cdf_tanh, "relu": step}
"""What multiplies x: each of the activations is x times a function that rises from 0 to 1."""
