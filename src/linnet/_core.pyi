"""The C++ core (csrc/bind.cc): use it through `linnet.ops.native`."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

PAGE_SIZE: int

def available_isas() -> list[str]: ...

class Context:
    def __init__(self, threads: int, prefill_threads: int, isa: str = "") -> None: ...
    @property
    def isa(self) -> str: ...
    def peaks(self) -> tuple[float, float]: ...

class Vector:
    def __init__(self, values: NDArray[np.float32]) -> None: ...

class Matrix:
    experts: int
    rows: int
    columns: int
    owned_bytes: int
    type: int
    source: Any

class Cache:
    pages: list[int]
    bytes: int
    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        groups: Sequence[int],
        pages: Sequence[int],
        type: int,
        states: Sequence[int] = (),
    ) -> None: ...
    def copy_page(self, source: int, target: int, group: int) -> None: ...

class Tape:
    def __init__(self, context: Context) -> None: ...
    def constant(self, x: NDArray[np.float32]) -> int: ...
    def embed(self, table: Matrix, source: int, offset: int) -> int: ...
    def norm(self, x: int, weight: Vector | None, bias: Vector | None, kind: int, epsilon: float, groups: int) -> int: ...
    def angles(self, start: int, dim: int, interleaved: bool, positions: int, frequencies: Vector | None) -> int: ...
    def rotate(self, x: int, angles: int, start: int, dim: int, interleaved: bool, head_dim: int) -> int: ...
    def activate(self, x: int, activation: int) -> int: ...
    def gate(self, gate: int, up: int, activation: int) -> int: ...
    def add(self, a: int, b: int, a_scale: float, b_scale: float) -> int: ...
    @overload
    def scale(self, x: int, factor: float) -> int: ...
    @overload
    def scale(self, x: int, factor: Vector) -> int: ...
    def weigh(self, x: int, weights: int) -> int: ...
    def columns(self, x: int, start: int, count: int) -> int: ...
    def append_shared(self, x: int, shared: int, heads: int) -> int: ...
    def take(self, x: int) -> int: ...
    def softcap(self, x: int, cap: float) -> int: ...
    def linear(self, x: int, w: Matrix, bias: Vector | None) -> int: ...
    def convolve(self, x: int, weight: Vector, bias: Vector | None, layer: int, taps: int, start: int, state: int) -> int: ...
    def delta_rule(
        self,
        q: int,
        k: int,
        v: int,
        rate: int,
        strength: int,
        decay: Vector,
        layer: int,
        heads: tuple[int, int, int, int],
        state: int,
    ) -> int: ...
    def attend(
        self,
        q: int,
        k: int | None,
        v: int | None,
        layer: int,
        heads: int,
        kv: tuple[int, int, int],
        scale: float,
        softcap: float,
        window: int,
        bidirectional: bool,
        slopes: Vector | None,
        sinks: Vector | None,
    ) -> int: ...
    def experts(
        self,
        x: int,
        logits: int,
        matrices: Sequence[Matrix | None],
        biases: Sequence[Vector | None],
        router: tuple[int, int, bool, float, int, int],
        activation: int,
        correction: Vector | None,
        scale: Vector | None = None,
    ) -> int: ...
    def run(
        self,
        result: int,
        cache: Cache | None,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        previous: NDArray[np.int32],
        sequence: NDArray[np.int32],
        page_table: NDArray[np.int32],
        prompt_lengths: NDArray[np.int32],
        rows: NDArray[np.int32],
        rotations: Sequence[NDArray[np.float32]],
    ) -> NDArray[np.float32]: ...

def matrix(
    context: Context, raws: Sequence[NDArray[np.uint8]], stored: int, target: int, rows: int, columns: int, pack: bool
) -> Matrix: ...
def matrix_floats(matrix: Matrix) -> NDArray[np.float32]: ...
def quantize_rows(
    raw: NDArray[np.uint8],
    stored: int,
    target: int,
    rows: int,
    columns: int,
    importance: NDArray[np.float32] | None,
    threads: int,
    isa: str = "",
) -> NDArray[np.uint8]: ...
def sample(
    context: Context,
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
    allowed: NDArray[np.uint32] | None = None,
) -> int: ...
