"""The contract between the forward and whoever computes it.

An op set owns its buffers and its KV pages. `X` below is the op set's own activation type: float32 [rows, width].
Every op gives a new X and never changes its inputs; each row's result depends on that row alone (attention: on
that row's sequence alone), so that the same request gives the same bits in any batch, chunking and thread count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Activation, Attention, GatedDeltaNet, ModelSpec, Moe, Norm, Output
from linnet.tensors import RawTensor, TensorType
from linnet.weights import FilterWeights, MlpWeights, NormWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SIZE = 32
"""Positions per KV page, the same in every op set. Attention merges pages in this order, so it is also what
fixes the order of summation; changing it changes the last bits of every result."""


KV_DTYPES = ("f16", "bf16", "q8_0", "f32")
"""How keys and values may be stored, in every op set. q8_0: blocks of 32 entries of a head (the last may be shorter), each a float16
scale and integers from -127 to 127."""


@dataclass(frozen=True)
class Batch:
    """What one forward step computes.

    tokens, positions: int32 [n]; the n input rows. Rows of one sequence are contiguous, positions ascending.
    previous: int32 [n]; the token before each row's, -1 at position 0.
    sequence: int32 [n]; which sequence each input row belongs to.
    page_table: int32 [groups, sequences, widest]; the pages of each sequence in order of position, -1 past its last, in each group of
        layers (see `Ops.allocate_cache`). Of pages that no row of the batch sees through a layer's window, any number may stand there.
    rope_lengths: int32 [sequences]; the length that length-dependent rotary scaling uses, fixed per request.
    prompt_lengths: int32 [sequences]; tokens of the request's prompt, fixed per request (bidirectional prompts, ChatGLM's positions).
    rows: int32 [wanted]; the input rows whose logits are wanted, ascending.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    previous: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_table: NDArray[np.int32]
    rope_lengths: NDArray[np.int32]
    prompt_lengths: NDArray[np.int32]
    rows: NDArray[np.int32]


Step = Callable[[Batch], "NDArray[np.float32]"]
"""Runs a batch: float32 logits [len(batch.rows), vocab]."""


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from a row of logits: what is done to them first, in this order, then what `Ops.sample` is told.

    biased, bias: int64, float32 [k]; tokens, and what is added to each. seen, counts: int64, float32 [m]; the distinct tokens so far, and
    how often each was generated, for the three penalties. forbidden: int64; tokens that may not come.
    """

    biased: NDArray[np.int64]
    bias: NDArray[np.float32]
    seen: NDArray[np.int64]
    counts: NDArray[np.float32]
    repetition: float
    presence: float
    frequency: float
    forbidden: NDArray[np.int64]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float

    @property
    def adjusts(self) -> bool:
        return bool(len(self.biased) or len(self.seen) or len(self.forbidden))


class DeviceLogits(ABC):
    """Float32 [rows, vocab] where the op set computed them: tokens can be drawn there, so that only these travel."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, rows: slice) -> DeviceLogits: ...

    @abstractmethod
    def host(self) -> NDArray[np.float32]:
        """A copy."""

    @abstractmethod
    def draw(self, rows: Sequence[int], draws: Sequence[Draw]) -> list[int]:
        """A token from each of these rows, the same that `Ops.sample` draws; -1 where the largest logit is not finite."""


class DeviceStep(ABC):
    """A `Step` that can also leave the logits where they are."""

    @abstractmethod
    def __call__(self, batch: Batch) -> NDArray[np.float32]: ...

    @abstractmethod
    def on_device(self, batch: Batch) -> DeviceLogits: ...


Logits: TypeAlias = "NDArray[np.float32] | DeviceLogits"


def on_host(logits: Logits) -> NDArray[np.float32]:
    return logits.host() if isinstance(logits, DeviceLogits) else logits


class Ops(Protocol):
    """One way to compute a decoder. Its matrices, stacks of matrices and vectors are of its own types."""

    name: str
    keeps_bits: bool
    """Whether a row's result has the same bits in a batch of any size; where it has not, the sums may be cut another way."""

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Any:
        """A weight [out, in], kept as stored or re-encoded as `target`. Copies or packs what it needs; when
        `owns(matrix)` is false, the matrix still reads `raw.data`, which must stay mapped."""

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> Any:
        """Weights [out, in] of several experts, all of one shape and type, as one. `owns` holds for it as for a matrix; floats that
        lie one after another may be read where they are."""

    def vector(self, raw: RawTensor) -> Any:
        """A float32 vector (norm weight or bias), or one per expert, from an F32, F16 or BF16 tensor."""

    def owns(self, matrix: Any) -> bool:
        """Whether the matrix holds its own copy, so that the source's pages can be given back."""

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], Any]) -> Step:
        """What runs `build`, a forward over this op set that returns its logits, for one batch after another. An op set that
        records calls `build` once and replays; the others call it for every batch."""

    # ---- ops of a forward
    def embed(self, table: Any, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> Any:
        """Rows of `table` [count, width] for batch.tokens, batch.previous (zeros where that is -1), or batch.positions + offset:
        X [n, width]."""

    def norm(self, x: Any, weights: NormWeights, norm: Norm, groups: int = 1) -> Any:
        """Normalises each of `groups` equal parts of a row (one, or one per head); weight and bias [width / groups] or [width]."""

    def linear(self, x: Any, matrix: Any, bias: Any | None) -> Any:
        """x @ matrix.T + bias: X [n, out]."""

    def rotate(self, x: Any, rope: Rope, head_dim: int) -> Any:
        """Rotary embedding of each head of X [n, heads * head_dim] at the batch's positions."""

    def attend(self, q: Any, k: Any | None, v: Any | None, layer: int, attention: Attention, sinks: Any | None) -> Any:
        """Writes k and v of every row to the pages of `layer`, then attends from q over the pages up to each row's position (with a
        bidirectional prompt: at least up to the prompt's last but one): X [n, heads * value_head_dim]. k and v None: those pages have
        been written, in this step too. sinks: [heads] or None."""

    def convolve(self, x: Any, weights: FilterWeights, layer: int, taps: int, start: int = 0) -> Any:
        """Each column of X convolved over positions: y[p] = sum of weight[tap] * x[p - taps + 1 + tap] + bias, with zeros before position
        0: X [n, width]. The inputs before this step's rows are [taps - 1, width] from entry `start` of the layer's states on (see
        `StateRun` in ops/states.py), and are left there for the next."""

    def delta_rule(self, q: Any, k: Any, v: Any, rate: Any, strength: Any, decay: Any, layer: int, mixer: GatedDeltaNet) -> Any:
        """What `GatedDeltaNet` says from "a decay g" on to "query S": X [n, value_width]. q, k: X [n, key_width]; v: X [n, value_width];
        rate, strength: X [n, value_heads], the latter as b; decay: [value_heads]. S of each head, [key_dim, value_dim], are the last
        entries of the layer's states."""

    def experts(self, x: Any, logits: Any, weights: MlpWeights, moe: Moe, correction: Any | None, scale: Any | None = None) -> Any:
        """The mixture of experts that `logits` [n, experts] choose (see `Router`), without the shared block: X [n, hidden].
        correction, scale: [experts] where the router is corrected, or rescaled."""

    def activate(self, x: Any, activation: Activation) -> Any:
        """act(x), element by element."""

    def gate(self, gate: Any, up: Any, activation: Activation) -> Any:
        """act(gate) * up, element by element."""

    def add(self, a: Any, b: Any, a_scale: float = 1.0, b_scale: float = 1.0) -> Any:
        """a * a_scale + b * b_scale."""

    def scale(self, x: Any, factor: Any) -> Any:
        """x times a number, or a vector of one entry."""

    def weigh(self, x: Any, weights: Any) -> Any:
        """Each of g equal parts of a row of x [n, width] times its own entry of weights [n, g]."""

    def columns(self, x: Any, start: int, count: int) -> Any:
        """X [n, count]: those columns of x."""

    def append_shared(self, x: Any, shared: Any, heads: int) -> Any:
        """Each of `heads` equal parts of a row of x followed by the row of `shared`: X [n, x width + heads * shared width]."""

    def take(self, x: Any) -> Any:
        """The rows of X that the batch wants: X [wanted, width]."""

    def logits(self, x: Any, matrix: Any, bias: Any | None, output: Output) -> Any:
        """The logits of x [wanted, width], scaled and capped as `output` says; what a forward returns."""

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        """Makes pools of PAGE_SIZE positions a page for every one of `spec.kv_layers`; `kv_dtype` is one of KV_DTYPES. Layers of a group
        share page tables. pages: how many of each group; groups: that of every layer, or nothing where all are in the first. A page of a
        recurrent layer is one state, float32, after the last of its positions that came: a step starts from that on the page of the
        position before its rows, and writes those on the last two pages of its rows."""

    def free_cache(self) -> None:
        """Gives the pool back."""

    def copy_page(self, source: int, target: int, group: int) -> None:
        """Makes page `target` hold what page `source` holds, in every layer of a group."""

    def sample(
        self,
        logits: NDArray[np.float32],
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        uniform: float,
        allowed: NDArray[np.uint32] | None = None,
    ) -> int:
        """Draws a token from logits [vocab] (penalties and bias already applied) with `uniform` in [0, 1).

        temperature 0 takes the largest; ties go to the smaller id. Filters apply in the order top-k, top-p,
        min-p on softmax(logits / temperature); 0, 1.0 and 0.0 turn them off. allowed: the only tokens that count, a bit for each
        (`ops/sampling.py`, set_of); None: all. -1 where none of them is above -inf."""
