"""Tensors from their source into a file: a few rows at a time on every thread, written in order.

So memory holds a few pieces beside the largest tensor, and that only where its layout changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from linnet.load.convert import decoded, loaded_as
from linnet.load.encode import encode
from linnet.quantize.file_types import Chosen
from linnet.quantize.gguf_writer import Entry
from linnet.tensors import RawTensor, TensorType

Floats = NDArray[np.float32]
Importance = Mapping[str, Floats]
"""Mean squares of what each column of a matrix is multiplied with, by the tensor's name: [columns], or [experts, columns]."""

PIECE = 1 << 20
"""Values that a thread encodes at a time."""
_MEASURED = 8
"""One row of so many is decoded again, to measure the error of a large tensor."""


@dataclass(frozen=True)
class Written:
    """A tensor of the file. relative_error: root of the sum of squared differences to the source's values over that of their squares;
    of large tensors, over every eighth row."""

    name: str
    shape: tuple[int, ...]
    stored: str
    type: str
    nbytes: int
    relative_error: float


@dataclass(frozen=True)
class _Piece:
    """Encoded rows, and sums of squares: of the errors that were measured, and of the values there."""

    data: NDArray[np.uint8]
    error: float
    square: float


class Writer(Protocol):
    """A file to which tensors go one after another, each in pieces."""

    def write(self, data: Any) -> None: ...

    def end_tensor(self, entry: Entry) -> None: ...


def write_tensors(
    writer: Writer, chosen: Sequence[Chosen], importance: Importance, threads: int, advance: Callable[[int], object] = lambda _: None
) -> list[Written]:
    """advance: called with numbers of values that are done. Threads share out pieces; the file's bytes depend on none of it."""
    written: list[Written] = []
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Chosen, Future[_Piece], bool]] = deque()
        error = square = 0.0

        def take() -> None:
            nonlocal error, square
            one, future, last = waiting.popleft()
            piece = future.result()
            writer.write(piece.data.data)
            error, square = error + piece.error, square + piece.square
            tensor, entry = one.tensor, entry_of(one)
            advance(len(piece.data) // one.type.block_bytes * one.type.block)
            if last:
                writer.end_tensor(entry)
                tensor.release()
                relative = (error / square) ** 0.5 if square else 0.0
                written.append(Written(tensor.name, tensor.shape, tensor.stored.name, one.type.name, entry.nbytes, relative))
                error = square = 0.0

        try:
            for one in chosen:
                for job, last in _jobs(one, importance.get(one.tensor.name)):
                    waiting.append((one, pool.submit(job), last))
                    if len(waiting) > 2 * threads:
                        take()
            while waiting:
                take()
        finally:
            for _, future, _ in waiting:
                future.cancel()
    return written


def entry_of(one: Chosen) -> Entry:
    return Entry(one.tensor.name, one.tensor.shape, one.type)


def _jobs(one: Chosen, importance: Floats | None) -> Iterator[tuple[Callable[[], _Piece], bool]]:
    """What encodes each piece of a tensor, in order, and whether it is the last."""
    matrices = [matrix for raw in one.tensor.read() for matrix in _matrices(raw)]
    every = _MEASURED if one.tensor.values > PIECE else 1
    for index, raw in enumerate(matrices):
        weights = None if importance is None else importance if importance.ndim == 1 else importance[index % len(importance)]
        rows, columns = raw.shape
        step = max(1, PIECE // columns)
        data = raw.data.reshape(rows, -1)
        for begin in range(0, rows, step):
            part = data[begin : begin + step]
            piece = RawTensor(raw.name, (len(part), columns), raw.type, part.reshape(-1))
            last = index + 1 == len(matrices) and begin + step >= rows
            yield (lambda piece=piece, weights=weights: _encoded(piece, one.type, weights, every)), last  # type: ignore[misc]


def _matrices(raw: RawTensor) -> list[RawTensor]:
    """A tensor as matrices: a vector as one of a single row, a stack as those of its experts."""
    if len(raw.shape) == 2:
        return [raw]
    shape = (1, raw.shape[0]) if len(raw.shape) == 1 else raw.shape[-2:]
    count = int(np.prod(raw.shape)) // (shape[0] * shape[1])
    return [RawTensor(raw.name, shape, raw.type, data) for data in raw.data.reshape(count, -1)]


def _encoded(raw: RawTensor, type: TensorType, importance: Floats | None, every: int) -> _Piece:
    if raw.type == type:
        return _Piece(np.ascontiguousarray(raw.data), 0.0, 0.0)
    rows, columns = raw.shape
    data = encode(raw if loaded_as(raw.type) == raw.type else decoded(raw), type, importance).reshape(rows, -1)
    shape = (len(range(0, rows, every)), columns)
    values, kept = (
        decoded(RawTensor(raw.name, shape, of, np.ascontiguousarray(rows_of[::every]).reshape(-1)))
        for of, rows_of in ((raw.type, raw.data.reshape(rows, -1)), (type, data))
    )
    lost = kept - values
    return _Piece(data.reshape(-1), float(np.vdot(lost, lost)), float(np.vdot(values, values)))
