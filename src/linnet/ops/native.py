"""The native op set: the C++ core behind the `Ops` protocol. No arithmetic here: a forward is recorded, and the core replays it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from linnet import _core
from linnet.arch.rope import effective_length, inverse_frequencies, is_length_dependent
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Activation, Attention, GatedDeltaNet, Mixer, ModelSpec, Moe, Norm, Output
from linnet.control_group import processor_quota
from linnet.errors import InvalidRequestError, ModelFileError, OutOfMemoryError
from linnet.ops.base import KV_DTYPES, PAGE_SIZE, Batch, Step
from linnet.tensors import RawTensor, TensorType
from linnet.weights import FilterWeights, Linear, MlpWeights, NormWeights

Value = int
"""What X is here: the number of a value on the tape being recorded."""

# The core's numbers for what a spec spells out.
ACTIVATIONS = {name: number for number, name in enumerate(get_args(Activation))}
NORMS = {"rms": 0, "layer": 1}
SOURCES = {"tokens": 0, "previous": 1, "positions": 2}
ROPE_POSITIONS = {"absolute": 0, "prompt": 1, "block": 2}
SCORINGS = {"softmax": 0, "sigmoid": 1, "softmax_chosen": 2}
KV_TYPES = {name: number for number, name in enumerate(KV_DTYPES)}

MAX_THREADS = 1024

assert _core.PAGE_SIZE == PAGE_SIZE


class NativeOps:
    """`Ops` in C++.

    threads: how many threads share an operation; None: one per physical core that this process may use. prefill_threads: the same
    for steps in which a request has several tokens; None: as many as `threads`.
    isa: "avx512", "avxvnni", "avx2", "neon" or "scalar"; None: LINNET_ISA from the environment, or the best that the processor has.
    pack: whether block formats are rearranged for speed when they are loaded; else they stay where the file maps them, and are
        rearranged each time they are used, which takes longer and no memory.
    Raises InvalidRequestError for a thread count out of range or past what the system starts, or an instruction set that is not there.
    """

    name = "native"
    keeps_bits = True

    def __init__(
        self, threads: int | None = None, isa: str | None = None, *, prefill_threads: int | None = None, pack: bool = True
    ) -> None:
        threads = default_threads() if threads is None else threads
        prefill_threads = threads if prefill_threads is None else prefill_threads
        for name, count in (("threads", threads), ("prefill_threads", prefill_threads)):
            if not 1 <= count <= MAX_THREADS:
                raise InvalidRequestError(f"{name} is {count}; it must be from 1 to {MAX_THREADS}")
        try:
            self.context = _core.Context(threads, prefill_threads, isa or "")
        except (ValueError, RuntimeError) as error:
            raise InvalidRequestError(str(error)) from None
        self.pack = pack
        self.cache: _core.Cache | None = None

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> _core.Matrix:
        return self.stack([raw], target)

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> _core.Matrix:
        first = raws[0]
        rows, columns = first.shape
        stored, target = first.type, target or first.type
        data = [raw.data for raw in raws]
        try:
            matrix = _core.matrix(self.context, data, stored.gguf_id, target.gguf_id, rows, columns, self.pack)
        except ValueError as error:
            raise ModelFileError(f"tensor {first.name!r}, {error}: it cannot be stored as {target.name}") from None
        except MemoryError:
            raise OutOfMemoryError(f"there is no memory for tensor {first.name!r} {first.shape}; choose smaller weights, as q4_0") from None
        if not self.owns(matrix):
            matrix.source = data  # keeps the mapping alive
        return matrix

    def vector(self, raw: RawTensor) -> _core.Vector:
        id, size = raw.type.gguf_id, int(np.prod(raw.shape))
        return _core.Vector(_core.matrix_floats(_core.matrix(self.context, [raw.data], id, id, 1, size, True)).reshape(-1))

    def owns(self, matrix: _core.Matrix) -> bool:
        return bool(matrix.owned_bytes)

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], Any]) -> Step:
        return Recorded(self, spec, build)

    def begin(self, spec: ModelSpec) -> None:
        """Starts a recording: what follows goes on a new tape."""
        self.spec = spec
        self.pools = {layer: pool for pool, layer in enumerate(spec.kv_layers)}
        self.tape = _core.Tape(self.context)
        self.angles: dict[Rope, Value] = {}
        self.varying: list[Rope] = []

    # ---- ops of a forward
    def embed(self, table: _core.Matrix, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> Value:
        return self.tape.embed(table, SOURCES[source], offset)

    def norm(self, x: Value, weights: NormWeights, norm: Norm, groups: int = 1) -> Value:
        return self.tape.norm(x, weights.weight, weights.bias, NORMS[norm.kind], norm.epsilon, groups)

    def linear(self, x: Value, matrix: _core.Matrix, bias: _core.Vector | None) -> Value:
        return self.tape.linear(x, matrix, bias)

    def rotate(self, x: Value, rope: Rope, head_dim: int) -> Value:
        if rope not in self.angles:
            frequencies = None if is_length_dependent(rope) else _core.Vector(frequencies_and_factor(rope, 0))
            if frequencies is None:
                self.varying.append(rope)
            positions = ROPE_POSITIONS[rope.positions]
            self.angles[rope] = self.tape.angles(rope.start, rope.dim, rope.interleaved, positions, frequencies)
        return self.tape.rotate(x, self.angles[rope], rope.start, rope.dim, rope.interleaved, head_dim)

    def attend(self, q: Value, k: Value | None, v: Value | None, layer: int, attention: Attention, sinks: _core.Vector | None) -> Value:
        kv = (attention.kv_heads, attention.head_dim, attention.value_head_dim)
        slopes = None if attention.alibi is None else _core.Vector(np.array(attention.alibi, np.float32))
        softcap, window = attention.softcap or 0.0, attention.window or 0
        bidirectional, pool = self.spec.bidirectional_prompt, self.pools[layer]
        return self.tape.attend(q, k, v, pool, attention.heads, kv, attention.scale, softcap, window, bidirectional, slopes, sinks)

    def convolve(self, x: Value, weights: FilterWeights, layer: int, taps: int, start: int = 0) -> Value:
        state = state_size(self.spec.layers[layer].mixer)
        return self.tape.convolve(x, weights.weight, weights.bias, self.pools[layer], taps, start, state)

    def delta_rule(
        self, q: Value, k: Value, v: Value, rate: Value, strength: Value, decay: _core.Vector, layer: int, mixer: GatedDeltaNet
    ) -> Value:
        heads = (mixer.key_heads, mixer.value_heads, mixer.key_dim, mixer.value_dim)
        return self.tape.delta_rule(q, k, v, rate, strength, decay, self.pools[layer], heads, mixer.state_size)

    def experts(
        self,
        x: Value,
        logits: Value,
        weights: MlpWeights,
        moe: Moe,
        correction: _core.Vector | None,
        scale: _core.Vector | None = None,
    ) -> Value:
        linears = [weights.gate or Linear(None), weights.up, weights.down]
        router = moe.router
        settings = (router.active, SCORINGS[router.scoring], router.normalise, router.scale, router.groups, router.active_groups)
        matrices, biases = [linear.matrix for linear in linears], [linear.bias for linear in linears]
        return self.tape.experts(x, logits, matrices, biases, settings, ACTIVATIONS[moe.expert.activation], correction, scale)

    def activate(self, x: Value, activation: Activation) -> Value:
        return self.tape.activate(x, ACTIVATIONS[activation])

    def gate(self, gate: Value, up: Value, activation: Activation) -> Value:
        return self.tape.gate(gate, up, ACTIVATIONS[activation])

    def add(self, a: Value, b: Value, a_scale: float = 1.0, b_scale: float = 1.0) -> Value:
        return self.tape.add(a, b, a_scale, b_scale)

    def scale(self, x: Value, factor: float | _core.Vector) -> Value:
        return self.tape.scale(x, factor)

    def weigh(self, x: Value, weights: Value) -> Value:
        return self.tape.weigh(x, weights)

    def columns(self, x: Value, start: int, count: int) -> Value:
        return self.tape.columns(x, start, count)

    def append_shared(self, x: Value, shared: Value, heads: int) -> Value:
        return self.tape.append_shared(x, shared, heads)

    def take(self, x: Value) -> Value:
        return self.tape.take(x)

    def logits(self, x: Value, matrix: _core.Matrix, bias: _core.Vector | None, output: Output) -> Value:
        x = self.tape.linear(x, matrix, bias)
        if output.scale != 1.0:
            x = self.tape.scale(x, output.scale)
        return x if output.softcap is None else self.tape.softcap(x, output.softcap)

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        if kv_dtype not in KV_TYPES:
            raise InvalidRequestError(f"kv_dtype {kv_dtype!r} is not one of {', '.join(KV_TYPES)}")
        mixers = [spec.layers[index].mixer for index in spec.kv_layers]
        shapes, states = [cache_shape(mixer) for mixer in mixers], [state_size(mixer) for mixer in mixers]
        own = [groups[index] if groups else 0 for index in spec.kv_layers]
        try:
            self.cache = _core.Cache(shapes, own, pages, KV_TYPES[kv_dtype], states)
        except MemoryError:
            message = f"there is no memory for a KV cache of {sum(pages)} pages; lower kv_memory, context or max_batch"
            raise OutOfMemoryError(message) from None

    def free_cache(self) -> None:
        """And what steps worked in, with the threads: this is the end."""
        self.cache = None
        vars(self).pop("context", None)

    def copy_page(self, source: int, target: int, group: int) -> None:
        assert self.cache is not None
        self.cache.copy_page(source, target, group)

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
        return _core.sample(self.context, logits, temperature, top_k, top_p, min_p, uniform, allowed)


def cache_shape(mixer: Mixer) -> tuple[int, int, int]:
    """KV heads, their width, and that of their values."""
    return (mixer.kv_heads, mixer.head_dim, mixer.value_head_dim) if isinstance(mixer, Attention) else (1, 0, 0)


def state_size(mixer: Mixer) -> int:
    """0: there are keys and values."""
    return 0 if isinstance(mixer, Attention) else mixer.state_size


def arithmetic_peaks(threads: int) -> tuple[str, float, float]:
    """The instruction set that runs, and the most multiply-adds a second of bytes and of float32 that it does on so many threads."""
    context = _core.Context(threads, threads)
    return context.isa, *context.peaks()


class Recorded:
    """A `Step` that records the forward at its first batch and replays it from then on."""

    def __init__(self, ops: NativeOps, spec: ModelSpec, build: Callable[[], Any]) -> None:
        self.ops, self.spec = ops, spec
        self.build: Callable[[], Any] | None = build

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        if self.build is not None:
            self.ops.begin(self.spec)
            self.result: Value = self.build()
            self.tape, self.varying, self.build = self.ops.tape, self.ops.varying, None
            del self.ops.tape  # it holds the weights, which are given back once this step is
        rotations = [frequencies_of_requests(rope, batch.rope_lengths) for rope in self.varying]
        arrays = (batch.tokens, batch.positions, batch.previous, batch.sequence, batch.page_table, batch.prompt_lengths, batch.rows)
        try:
            logits: NDArray[np.float32] = self.tape.run(self.result, self.ops.cache, *arrays, rotations)
        except MemoryError:
            rows, wanted = len(batch.tokens), len(batch.rows)
            raise OutOfMemoryError(
                f"there is no memory for a step of {rows} tokens with logits of {wanted}; lower prefill_chunk or max_batch"
            ) from None
        return logits


def frequencies_of_requests(rope: Rope, lengths: NDArray[np.int32]) -> NDArray[np.float32]:
    """Float32 [sequences, dim / 2 + 1]: of every sequence, by the length that its request is fixed to."""
    return np.stack([frequencies_and_factor(rope, effective_length(rope, length)) for length in lengths.tolist()])


@lru_cache(maxsize=1024)
def frequencies_and_factor(rope: Rope, length: int) -> NDArray[np.float32]:
    """Float32 [dim / 2 + 1]: radians per position of each pair, then the factor of cosines and sines."""
    frequencies, factor = inverse_frequencies(rope, length)
    return np.append(frequencies, np.float32(factor))


def default_threads(root: Path = Path("/")) -> int:
    """Physical cores among the processors that this process may run on (hyperthreads of one core count once), but no more
    than a container's quota of processor time is worth: threads past it would wait for each other while they are held up. root: the
    folder that holds the system's files of control groups."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    quota = processor_quota(root)
    return len(cores) if quota is None else max(1, min(len(cores), int(quota)))
