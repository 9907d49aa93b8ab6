"""A batch on the device: what the ops of one step look up, moved there once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnet.arch.rope import angles, rotary_positions
from linnet.arch.rope_spec import Rope
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.states import StateRun, state_runs
from linnet.ops.torch.recurrent import Stretch


@dataclass(frozen=True)
class Part:
    """Rows of a step that attend alike: `rows` of them, whose sequences see up to `length` positions.

    tables: int64 [groups, sequences, pages], where those lie; positions, ends: int64 [sequences, queries], of each row, and the last that
    it sees. One sequence with all its rows, or many with one row each. causal: whether the rows are the last ones of one sequence, each
    seeing itself and all before it.
    """

    rows: slice | Tensor
    tables: Tensor
    positions: Tensor
    ends: Tensor
    length: int
    causal: bool
    kept: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def places(self) -> Tensor:
        """int64 [groups, sequences, length], in the pools; worked out once, if at all (torch.compile knows no cached_property)."""
        if not self.kept:
            within = torch.arange(PAGE_SIZE, device=self.tables.device)
            self.kept.append((self.tables[..., None] * PAGE_SIZE + within).flatten(-2)[..., : self.length])
        return self.kept[0]


class DeviceBatch:
    """`Batch`, as tensors."""

    def __init__(self, batch: Batch, device: torch.device, bidirectional: bool) -> None:
        self.batch, self.device, self.bidirectional = batch, device, bidirectional
        self._angles: dict[Rope, tuple[Tensor, Tensor]] = {}
        self._places: dict[int, Tensor] = {}
        self._stretches: dict[int, list[Stretch]] = {}
        self.tokens = self._move(batch.tokens)
        self.rows = self._move(batch.rows)

    @cached_property
    def positions(self) -> Tensor:
        return self._move(self.batch.positions)

    @cached_property
    def previous(self) -> Tensor:
        return self._move(self.batch.previous)

    def places(self, group: int) -> Tensor:
        """Where each row's keys and values are written, in a group of layers that attend: int64 [n]."""
        if group not in self._places:
            batch = self.batch
            pages = batch.page_table[group, batch.sequence, batch.positions // PAGE_SIZE]
            assert (pages >= 0).all(), "a position without a page"
            self._places[group] = self._move(pages * PAGE_SIZE + batch.positions % PAGE_SIZE)
        return self._places[group]

    def angles(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each float32 [n, 1, dim / 2]."""
        rope = replace(rope, start=0)  # no angle depends on it
        if rope not in self._angles:
            batch = self.batch
            positions = rotary_positions(rope, batch.positions, batch.prompt_lengths[batch.sequence])
            cosines, sines = (np.array(a) for a in angles(rope, positions, batch.rope_lengths[batch.sequence]))
            self._angles[rope] = tuple(torch.from_numpy(a).to(self.device)[:, None] for a in (cosines, sines))  # type: ignore[assignment]
        return self._angles[rope]

    @cached_property
    def parts(self) -> list[Part]:
        """The rows, each once: sequences of several rows one by one, all those of one row together."""
        batch = self.batch
        starts = np.flatnonzero(np.r_[True, batch.sequence[1:] != batch.sequence[:-1]])
        counts = np.diff(np.r_[starts, len(batch.sequence)])
        ends = batch.positions
        if self.bidirectional:
            ends = np.maximum(ends, batch.prompt_lengths[batch.sequence] - 2)
        parts = [self._part(np.arange(s, s + n)[None], ends) for s, n in zip(starts, counts, strict=True) if n > 1]
        if (single := starts[counts == 1]).size:
            parts.append(self._part(single[:, None], ends))
        return parts

    def _part(self, rows: NDArray[np.int64], ends: NDArray[np.int32]) -> Part:
        """rows: [sequences, queries]."""
        batch = self.batch
        length = int(ends[rows].max()) + 1
        tables = batch.page_table[:, batch.sequence[rows[:, 0]], : -(-length // PAGE_SIZE)]
        tables = np.maximum(tables, 0)  # those past a shorter end are masked
        flat = rows.reshape(-1)
        causal = len(rows) == 1 and length - batch.positions[flat[0]] == len(flat) and not self.bidirectional
        return Part(self._together(flat), self._move(tables), self._move(batch.positions[rows]), self._move(ends[rows]), length, causal)

    def stretches(self, group: int) -> list[Stretch]:
        """The rows, each once, as recurrent layers of a group take them: sequences of several rows one by one, all those of one row
        together."""
        if group not in self._stretches:
            runs = list(state_runs(self.batch, group))
            single = [run for run in runs if run.rows.stop - run.rows.start == 1]
            alike = [[run] for run in runs if run not in single]
            self._stretches[group] = [self._stretch(together) for together in (*alike, *([single] if single else []))]
        return self._stretches[group]

    def _stretch(self, runs: list[StateRun]) -> Stretch:
        """Of sequences whose states are written after the same rows."""
        sources = self._move(np.array([run.source or 0 for run in runs]))
        begins = torch.tensor([run.source is None for run in runs], device=self.device)
        saved = [(row, self._move(np.array([run.saved[i][1] for run in runs]))) for i, (row, _) in enumerate(runs[0].saved)]
        return Stretch(self._together(np.concatenate([np.r_[run.rows] for run in runs])), sources, begins, saved)

    def _together(self, rows: NDArray[np.int64]) -> slice | Tensor:
        """A slice where they lie one after another."""
        return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) == rows[-1] - rows[0] + 1 else self._move(rows)

    def _move(self, array: NDArray[np.integer]) -> Tensor:
        # CUDA has taken ordinary memory over by the time it returns; others may still read what is freed by then.
        return torch.from_numpy(np.asarray(array, np.int64)).to(self.device, non_blocking=self.device.type == "cuda")
