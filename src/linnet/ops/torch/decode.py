"""Steps of one token for each sequence, out of buffers of fixed sizes: what runs for them can be captured once and replayed.

Sizes come in few steps: batches of 1, 2, 4, 8 and on, page tables of as many pages. Of each pair that occurs one graph is captured, at its
first step. Rows that only fill a batch up write to a page of their own, the last of the pool, and nobody looks at what comes of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from threading import Lock
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnet.arch.rope import angles, rotary_positions
from linnet.arch.rope_spec import Rope
from linnet.arch.spec import ModelSpec, Moe
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.torch.recurrent import Stretch
from linnet.ops.torch.step import Part

if TYPE_CHECKING:
    from linnet.ops.torch.ops import TorchOps

logger = logging.getLogger("linnet.ops")

Run: TypeAlias = Callable[[], Tensor]
Capture: TypeAlias = Callable[[Run], Run]
"""From a run that has nothing to say but to the device, to one that does the same again on the same memory. It may run it meanwhile, for
nobody: a step that was run twice would take states of recurrent layers on twice."""

LEAST_WIDTH = 8
"""Pages: 256 positions."""

MOST_ROWS = 256
"""A batch that is larger gains nothing by being captured."""

MOST_PROGRAMS = 64
"""Programs that torch.compile may make of steps of different sizes, before it is an error: a few are enough."""

MOST_EXPERTS = 16
"""Matrices of experts that a captured step copies for its rows; with more, it is quicker to ask which rows go to which expert."""


class Inputs:
    """What a step of `size` rows looks up, each of a sequence with up to `width` pages: a `DeviceBatch` in buffers that are filled anew.

    ropes: without their `start`, which no angle depends on. tokens, positions, previous, ends: int64 [size]. tables: int64
    [groups, size, width].
    """

    rows: Tensor | None = None
    """All rows are wanted."""

    def __init__(self, size: int, width: int, groups: int, spec: ModelSpec, device: torch.device) -> None:
        self.size, self.width, self.groups = size, width, groups
        every = {id(rope): rope for attention in spec.attentions for rope in attention.ropes}.values()
        self.ropes = ropes = list(dict.fromkeys(replace(rope, start=0) for rope in every))
        self.named = [(rope, ropes.index(replace(rope, start=0))) for rope in every]
        self.integers = torch.zeros(size * (4 + groups + groups * width), dtype=torch.int64, device=device)
        self.floats = torch.zeros(size * sum(rope.dim for rope in ropes), dtype=torch.float32, device=device)
        table = (4 + groups) * size
        self.tokens, self.positions, self.previous, self.ends = self.integers[: 4 * size].view(4, size)
        self._places, self.tables = self.integers[4 * size : table].view(groups, size), self.integers[table:].view(groups, size, width)
        ends = np.cumsum([size * rope.dim for rope in ropes])
        self._angles = [self.floats[end - size * r.dim : end].view(2, size, 1, -1) for r, end in zip(ropes, ends.tolist(), strict=True)]
        self.parts: list[Part] = []
        self._stretches: dict[int, list[Stretch]] = {}

    def fill(self, batch: Batch, bidirectional: bool, spare: Sequence[int]) -> None:
        """Takes a batch over; spare: of each group, the page that nobody owns."""
        count, order = len(batch.tokens), batch.sequence
        ends = np.maximum(batch.positions, batch.prompt_lengths[order] - 2) if bidirectional else batch.positions
        plain = np.zeros((4, self.size), np.int64)
        plain[:, :count] = batch.tokens, batch.positions, batch.previous, ends
        tables = np.broadcast_to(np.array(spare, np.int64)[:, None, None], (self.groups, self.size, self.width)).copy()
        given = batch.page_table[:, order, : self.width]
        tables[:, :count, : given.shape[2]] = np.maximum(given, 0)
        pages = np.take_along_axis(tables, plain[1][None, :, None] // PAGE_SIZE, axis=2)[..., 0]
        places = pages * PAGE_SIZE + plain[1] % PAGE_SIZE
        self.integers.copy_(_flat([plain, places, tables]), non_blocking=self.integers.is_cuda)
        if self.ropes:
            lengths, prompts = batch.rope_lengths[order], batch.prompt_lengths[order]
            turns = _flat([self._turns(rope, batch, lengths, prompts) for rope in self.ropes])
            self.floats.copy_(turns, non_blocking=self.floats.is_cuda)

    def _turns(self, rope: Rope, batch: Batch, lengths: NDArray[np.int32], prompts: NDArray[np.int32]) -> NDArray[np.float32]:
        """Cosines and sines, float32 [2, size, dim / 2]."""
        turns = np.zeros((2, self.size, rope.dim // 2), np.float32)
        turns[:, : len(lengths)] = angles(rope, rotary_positions(rope, batch.positions, prompts), lengths)
        return turns

    def begin(self) -> None:
        """What follows from the buffers alone, and so belongs to what is captured."""
        part = Part(slice(None), self.tables, self.positions[:, None], self.ends[:, None], self.width * PAGE_SIZE, causal=False)
        self.parts = [part]
        self._stretches = {}

    def places(self, group: int) -> Tensor:
        return self._places[group]

    def stretches(self, group: int) -> list[Stretch]:
        if group not in self._stretches:
            before = (self.positions - 1).clamp(min=0) // PAGE_SIZE
            sources = self.tables[group].gather(1, before[:, None])[:, 0]
            saved = [(0, self._places[group] // PAGE_SIZE)]
            self._stretches[group] = [Stretch(slice(None), sources, self.positions == 0, saved)]
        return self._stretches[group]

    def angles(self, rope: Rope) -> tuple[Tensor, Tensor]:
        cosines, sines = self._angles[next(index for own, index in self.named if own is rope)]  # torch.compile cannot compare them
        return cosines, sines


class DecodeSteps:
    """Runs `build`, a forward over `ops`, for batches that it `suits`."""

    def __init__(self, ops: TorchOps, spec: ModelSpec, build: Run, capture: Capture) -> None:
        self.ops, self.spec, self.build, self.capture = ops, spec, build, capture
        active = max((layer.mlp.router.active for layer in spec.layers if isinstance(layer.mlp, Moe)), default=0)
        self.most = max(1, MOST_EXPERTS // active) if active else MOST_ROWS
        self._captured: dict[tuple[int, int], tuple[Inputs, Run]] = {}

    def suits(self, batch: Batch) -> bool:
        count = len(batch.tokens)
        return len(batch.rows) == count == len(set(batch.sequence.tolist())) and 0 < count <= self.most

    def __call__(self, batch: Batch) -> Tensor:
        """Float32 logits [n, vocab], in memory that the next step overwrites."""
        assert self.ops.cache is not None
        count = len(batch.tokens)
        pages = int(batch.positions.max()) // PAGE_SIZE + 1
        size, width = _at_least(count, 1), _at_least(pages, LEAST_WIDTH)
        inputs, run = self._captured.get((size, width), (None, None))
        if inputs is None or run is None:
            inputs = Inputs(size, width, len(self.ops.cache.pages), self.spec, self.ops.device)
        spare = self.ops.cache.pages
        if run is None:
            inputs.fill(_nobodys(len(spare)), self.spec.bidirectional_prompt, spare)
            run = self.capture(lambda: self._run(inputs))
            self._captured[size, width] = inputs, run
            logger.debug("decoding of %d sequences with %d pages is captured", size, width)
        inputs.fill(batch, self.spec.bidirectional_prompt, spare)
        return run()[:count]

    def _run(self, inputs: Inputs) -> Tensor:
        inputs.begin()
        self.ops.step = inputs
        return self.build().float()


_capturing = Lock()
"""PyTorch captures one graph at a time, and a process may have several models, each with threads."""


def cuda_graph(device: torch.device) -> Capture:
    """Captures CUDA graphs on the device, which is the current one whenever they run. They share one pool of memory, and so one stream:
    only one of them runs at a time, and its result is read before the next. A step that no graph can hold runs as it is, which the log
    says. As https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs has it."""
    pool, side = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(run: Run) -> Run:
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # libraries set themselves up at their first calls, which no graph may hold
            for _ in range(2):
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may do as they please meanwhile; a capture that fails would not come back to the current stream by itself.
            captured = torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local")
            with _capturing, torch.cuda.stream(current), captured:
                result = run()
        except RuntimeError as error:
            logger.warning("a decoding step is asked for op by op, more slowly: no CUDA graph holds it (%s)", str(error).split("\n", 1)[0])
            return run

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return capture


_compiled = count()


def compiled(then: Capture | None = None, backend: str | Callable[..., Any] = "inductor") -> Capture:
    """Has torch.compile make one program of a step, and captures that with `then`, if with anything. The first step takes from seconds to
    minutes; the second of another size makes a program for any."""
    name, codes = f"decoding_step_{next(_compiled)}", dict[CodeType, CodeType]()

    def capture(run: Run) -> Run:
        # By a name of its own: what torch.compile learns of a function, as which sizes vary, would hold for the steps of every model.
        assert isinstance(run, FunctionType)
        code = codes.setdefault(run.__code__, run.__code__.replace(co_name=name))
        program: Run = torch.compile(FunctionType(code, run.__globals__, name, None, run.__closure__), fullgraph=True, backend=backend)
        with torch._dynamo.config.patch(recompile_limit=MOST_PROGRAMS):
            program()
        return program if then is None else then(program)

    return capture


def _nobodys(groups: int) -> Batch:
    """A batch without sequences."""
    none = np.zeros(0, np.int32)
    return Batch(none, none, none, none, np.zeros((groups, 0, 0), np.int32), none, none, none)


def _flat(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))


def _at_least(count: int, least: int) -> int:
    """The next power of two."""
    return max(least, 1 << (count - 1).bit_length())
