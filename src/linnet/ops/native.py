"""The native op set: the C++ core behind the `Ops` protocol. Arguments go through as they are; no arithmetic here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet import _core
from linnet.arch.rope import angles
from linnet.arch.spec import Activation, Attention, ModelSpec, Norm, Output, Rope
from linnet.errors import InvalidRequestError, ModelFileError, OutOfMemoryError
from linnet.ops.base import PAGE_SIZE, Batch, Step
from linnet.tensors import RawTensor, TensorType
from linnet.weights import NormWeights

ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
MAX_THREADS = 1024

assert _core.PAGE_SIZE == PAGE_SIZE


class NativeOps:
    """`Ops` in C++. X is a `_core.Tensor`, float32 [rows, width]; matrices are packed, or mapped where they are floats.

    threads: how many threads share an operation; None: one per physical core that this process may use.
    isa: "scalar", "avx2", "avx512"; None: LINNET_ISA from the environment, or the best that the processor has.
    Raises InvalidRequestError for a thread count out of range or an instruction set that is not there.
    """

    name = "native"

    def __init__(self, threads: int | None = None, isa: str | None = None) -> None:
        threads = default_threads() if threads is None else threads
        if not 1 <= threads <= MAX_THREADS:
            raise InvalidRequestError(f"threads is {threads}; it must be from 1 to {MAX_THREADS}")
        try:
            self.context = _core.Context(threads, isa or "")
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        self.cache: _core.Cache | None = None

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> _core.Matrix:
        rows, columns = raw.shape
        try:
            matrix = _core.matrix(self.context, raw.data, raw.type.gguf_id, (target or raw.type).gguf_id, rows, columns)
        except ValueError as error:
            raise ModelFileError(f"tensor {raw.name!r} {error}: it cannot be stored as {(target or raw.type).name}") from None
        except MemoryError:
            raise OutOfMemoryError(f"there is no memory for tensor {raw.name!r} {raw.shape}; choose smaller weights, as q4_0") from None
        if not self.owns(matrix):
            matrix.source = raw.data  # keeps the mapping alive
        return matrix

    def vector(self, raw: RawTensor) -> _core.Tensor:
        as_matrix = _core.matrix(self.context, raw.data, raw.type.gguf_id, raw.type.gguf_id, 1, int(np.prod(raw.shape)))
        return _core.tensor(self.context, _core.matrix_floats(as_matrix))

    def owns(self, matrix: _core.Matrix) -> bool:
        return bool(matrix.owned_bytes)

    # ---- one step
    def stepper(self, spec: ModelSpec, build: Callable[[], Any]) -> Step:
        def step(batch: Batch) -> NDArray[np.float32]:
            self.begin(spec, batch)
            logits: NDArray[np.float32] = build()
            return logits

        return step

    def begin(self, spec: ModelSpec, batch: Batch) -> None:
        assert self.cache is not None, "allocate_cache comes before the first step"
        self.batch = batch
        self.step = _core.Step(batch.positions, batch.sequence, batch.page_table, self.cache.pages)
        self.angles: dict[Rope, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def embed(self, table: _core.Matrix, source: str, offset: int = 0) -> _core.Tensor:
        return _core.embed(self.context, self.batch.tokens, table)

    def norm(self, x: _core.Tensor, weights: NormWeights, norm: Norm, groups: int = 1) -> _core.Tensor:
        return _core.rms_norm(self.context, x, weights.weight, norm.epsilon, groups)

    def linear(self, x: _core.Tensor, matrix: _core.Matrix, bias: _core.Tensor | None) -> _core.Tensor:
        return _core.linear(self.context, x, matrix, bias)

    def rotate(self, x: _core.Tensor, rope: Rope, head_dim: int) -> _core.Tensor:
        found = self.angles.get(rope)
        if found is None:
            found = self.angles[rope] = angles(rope, self.batch.positions, self.batch.rope_lengths[self.batch.sequence])
        return _core.rotate(self.context, x, *found, head_dim, rope.interleaved)

    def attend(self, q: _core.Tensor, k: _core.Tensor, v: _core.Tensor, layer: int, attention: Attention, sinks: Any) -> _core.Tensor:
        window = attention.window or 0
        return _core.attend(self.context, self.cache, self.step, q, k, v, layer, attention.heads, attention.scale, window)

    def activate(self, x: _core.Tensor, activation: Activation) -> _core.Tensor:
        return _core.activate(self.context, x, ACTIVATIONS[activation])

    def gate(self, gate: _core.Tensor, up: _core.Tensor, activation: Activation) -> _core.Tensor:
        return _core.gate(self.context, gate, up, ACTIVATIONS[activation])

    def add(self, a: _core.Tensor, b: _core.Tensor, a_scale: float = 1.0, b_scale: float = 1.0) -> _core.Tensor:
        return _core.add(self.context, a, b)

    def take(self, x: _core.Tensor) -> _core.Tensor:
        return _core.take(self.context, x, self.batch.rows)

    def logits(self, x: _core.Tensor, matrix: _core.Matrix, bias: Any, output: Output) -> NDArray[np.float32]:
        return _core.linear(self.context, x, matrix, None).numpy()

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: int, kv_dtype: str) -> None:
        if kv_dtype not in ("f16", "f32"):
            raise InvalidRequestError(f"kv_dtype {kv_dtype!r} is not one of f16, f32")
        shapes = [(layer.attention.kv_heads, layer.attention.head_dim) for layer in spec.layers]
        self.cache = _core.Cache(shapes, pages, kv_dtype == "f16")

    def free_cache(self) -> None:
        self.cache = None

    def sample(self, logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> int:
        return _core.sample(logits, temperature, top_k, top_p, min_p, uniform)


@lru_cache
def default_threads(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Physical cores among the processors that this process may run on (hyperthreads of one core count once), but no more
    than a container's quota of processor time is worth: threads past it would wait for each other while they are held up."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    try:
        quota, period = (control_group / "cpu.max").read_text().split()
    except OSError:
        return len(cores)
    return len(cores) if quota == "max" else max(1, min(len(cores), int(quota) // int(period)))
