"""The contract between the forward and whoever computes it.

An op set owns its buffers and its KV pages. `X` below is the op set's own activation type: float32 [rows, width].
Every op gives a new X and never changes its inputs; each row's result depends on that row alone (attention: on
that row's sequence alone), so that the same request gives the same bits in any batch, chunking and thread count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from linnet.arch.spec import Activation, Attention, ModelSpec, Norm, Rope
from linnet.tensors import RawTensor, TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SIZE = 32
"""Positions per KV page, the same in every op set. Attention merges pages in this order, so it is also what
fixes the order of summation; changing it changes the last bits of every result."""


@dataclass(frozen=True)
class Batch:
    """What one forward step computes.

    tokens, positions: int32 [n]; the n input rows. Rows of one sequence are contiguous, positions ascending.
    sequence: int32 [n]; which row of `page_table` each input row belongs to.
    page_table: int32 [sequences, widest]; the pages of each sequence in order of position, -1 past its last.
    rope_lengths: int32 [sequences]; the length that length-dependent rotary scaling uses, fixed per request.
    rows: int32 [wanted]; the input rows whose logits are wanted, ascending.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_table: NDArray[np.int32]
    rope_lengths: NDArray[np.int32]
    rows: NDArray[np.int32]


class Ops(Protocol):
    """One way to compute a decoder. `Matrix` and `Vector` are the op set's own weight types."""

    name: str

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Any:
        """A weight [out, in], kept as stored or re-encoded as `target`. Copies or packs what it needs; when
        `owns(matrix)` is false, the matrix still reads `raw.data`, which must stay mapped."""

    def vector(self, raw: RawTensor) -> Any:
        """A float32 vector (norm weight or bias) from an F32, F16 or BF16 tensor."""

    def owns(self, matrix: Any) -> bool:
        """Whether the matrix holds its own copy, so that the source's pages can be given back."""

    # ---- one step
    def begin(self, spec: ModelSpec, batch: Batch) -> None:
        """Starts a step: what follows, up to `logits`, refers to this batch."""

    def embed(self, table: Any) -> Any:
        """Rows of `table` [vocab, hidden] for batch.tokens: X [n, hidden]."""

    def norm(self, x: Any, weight: Any, norm: Norm, groups: int = 1) -> Any:
        """RMS norm over each of `groups` equal parts of a row (one, or one per head); weight [width / groups]."""

    def linear(self, x: Any, matrix: Any, bias: Any | None) -> Any:
        """x @ matrix.T + bias: X [n, out]."""

    def rotate(self, x: Any, rope: Rope, head_dim: int) -> Any:
        """Rotary embedding of each head of X [n, heads * head_dim] at the batch's positions."""

    def attend(self, q: Any, k: Any, v: Any, layer: int, attention: Attention) -> Any:
        """Writes k and v of every row to the pages of `layer`, then attends from q over the pages up to each
        row's position: X [n, heads * head_dim]."""

    def activate(self, x: Any, activation: Activation) -> Any:
        """act(x), element by element."""

    def gate(self, gate: Any, up: Any, activation: Activation) -> Any:
        """act(gate) * up, element by element."""

    def add(self, a: Any, b: Any) -> Any:
        """a + b."""

    def take(self, x: Any) -> Any:
        """The rows of X that the batch wants: X [wanted, width]."""

    def logits(self, x: Any, matrix: Any) -> NDArray[np.float32]:
        """x @ matrix.T as a float32 array [wanted, vocab]."""

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: int, kv_dtype: str) -> None:
        """Makes the pool of `pages` pages of PAGE_SIZE positions for every layer; `kv_dtype` is f16 or f32."""

    def free_cache(self) -> None:
        """Gives the pool back."""

    def sample(self, logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float, uniform: float) -> int:
        """Draws a token from logits [vocab] (penalties and bias already applied) with `uniform` in [0, 1).

        temperature 0 takes the largest; ties go to the smaller id. Filters apply in the order top-k, top-p,
        min-p on softmax(logits / temperature); 0, 1.0 and 0.0 turn them off."""
