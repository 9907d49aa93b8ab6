"""The processes of tensor parallelism: one for each device, which run the same forward; the first is the caller's own.

The caller's has the engine: pages, scheduling and sampling. It tells the others each batch (`rank_process.py`); sums pass between the
devices by torch.distributed (NCCL between CUDA devices, gloo elsewhere).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any, cast
from weakref import ref

import torch
from torch import distributed

from linnet.arch.spec import ModelSpec
from linnet.errors import LinnetError
from linnet.forward import forward
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.ops.base import Batch
from linnet.ops.torch.devices import open_kernels
from linnet.ops.torch.draw import TorchStep
from linnet.ops.torch.matrices import Plain
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.shards import Share, with_partial_sums
from linnet.rank_process import ENDING_S, InOrder, Orders, RankProcess, Report
from linnet.tensors import RawTensor, TensorType
from linnet.weights import Weights

LONGEST = timedelta(minutes=30)
"""How long a device waits for the others in a step, at most. One whose process ended is noticed at once."""


@dataclass(frozen=True)
class Rank:
    """What a process needs to be one of them."""

    rank: int
    size: int
    device: torch.device
    dtype: torch.dtype
    model: Path
    target: TensorType | None
    store: str
    """A file that they find each other by."""

    def join(self) -> RankOps:
        """The op set of this rank, once all of them are there and have added something up: what that needs is set up then, or fails."""
        backends: Any = distributed
        meeting = backends.FileStore(self.store, self.size), self.rank, self.size
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Left alone, NCCL's threads end the whole process when another one is lost; here the first rank sees to that (`LeadOps`).
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
            os.environ.setdefault("TORCH_NCCL_ENABLE_MONITORING", "0")
            options = backends.ProcessGroupNCCL.Options()
            options._timeout = LONGEST
            group = backends.ProcessGroupNCCL(*meeting, options)
        else:
            group = backends.ProcessGroupGloo(*meeting, LONGEST)
        ops = RankOps(self.device, self.dtype, group)
        ops.summed(torch.ones(1, device=self.device)).item()
        return ops


class RankOps(TorchOps):
    """`TorchOps` whose sums are those of all ranks."""

    def __init__(self, device: torch.device, dtype: torch.dtype, group: Any) -> None:
        super().__init__(device, dtype, kernels=open_kernels(device))
        self.group = group

    def summed(self, terms: torch.Tensor) -> torch.Tensor:
        terms = terms.contiguous()
        self.group.allreduce([terms]).wait()
        return terms

    def abandon(self) -> None:
        """Ends sums that wait for a device which is gone: NCCL's would for ever, gloo's end by themselves."""
        if self.device.type == "cuda":
            self.group.abort()


class LeadOps(RankOps):
    """The op set of the first rank, which starts the others and has them do what it does.

    ranks: all of them; `store` is made here. Once one of them has failed, nothing more runs: each step raises LinnetError with the
    reason. Everything that all of them do is done in one thread, in order and to its end: others would be left in the middle of a step
    that Ctrl-C ends in one.
    """

    def __init__(self, ranks: list[Rank]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="linnet-")
        store = str(Path(self.folder.name) / "ranks")
        first, *others = (replace(rank, store=store) for rank in ranks)
        self.failure: str | None = None
        self.others: list[RankProcess] = []
        self._joined = False
        self._failing, self._failed = Lock(), Event()
        self._reports: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
        self._in_order = InOrder()
        try:
            for rank in others:
                self.others.append(RankProcess(work, rank, heard=partial(_heard, ref(self), self._reports, rank.rank)))
            self._hear(otherwise="could not start")
            joining = self._in_order.submit(first.join)  # which does not end if another one does not come
            joining.add_done_callback(partial(_joined, self._reports))
            self._hear(len(ranks), otherwise="could not join the others")
            joined = joining.result()
        except BaseException:
            self.end()
            raise
        super().__init__(first.device, first.dtype, joined.group)
        self._joined = True

    def await_weights(self) -> None:
        """Until every rank has read its own. Raises LinnetError with the reason of the one that could not."""
        self._hear(otherwise="could not load the model")

    def _hear(self, count: int = 0, otherwise: str = "failed") -> None:
        """Until so many ranks, or all others, say that they have come as far as they were to. Raises LinnetError with the reason of the
        first that could not."""
        for _ in range(count or len(self.others)):
            rank, failure = self._reports.get()
            if failure is not None:
                raise LinnetError(f"rank {rank} of {len(self.others) + 1} {otherwise}: {failure}")

    def encoded(self, raws: Sequence[RawTensor], target: TensorType | None, stacked: bool = False) -> Plain:
        if self.failure is not None:
            raise LinnetError(f"a device of {len(self.others) + 1} failed while the model was loaded: {self.failure}")
        return super().encoded(raws, target, stacked)

    def lose(self, reason: str) -> None:
        """Nothing more can run, and whoever waits for a sum is let go. The first reason stays."""
        with self._failing:
            if self.failure is not None:
                return
            self.failure = reason
        self._failed.set()
        if self._joined:
            self.abandon()

    def fail(self, otherwise: str) -> None:
        """Nothing more can run: for the reason of a rank that is lost, which may be heard in a moment, or else `otherwise`."""
        if not self._failed.wait(1.0):
            self.lose(otherwise)

    def stepper(self, spec: ModelSpec, build: Callable[[], torch.Tensor]) -> TorchStep:
        step = cast(TorchStep, super().stepper(spec, build))
        return TorchStep(lambda batch: self._in_order(lambda: step.on_device(batch).values))

    def compute(self, spec: ModelSpec, build: Callable[[], torch.Tensor], batch: Batch) -> torch.Tensor:
        try:
            self.tell("step", batch)
            result = super().compute(spec, build, batch)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # sums that were abandoned meanwhile are none
            if self.failure is None:
                return result
            raise LinnetError(self.failure)
        except Exception as error:  # the others are now at another place than this one, whatever it was
            self.fail(str(error))
            self.end()
            raise LinnetError(f"a device of {len(self.others) + 1} failed ({self.failure}); open the model again") from error

    def tell(self, what: str, *arguments: Any) -> None:
        if self.failure is not None:
            raise LinnetError(self.failure)
        for other in self.others:
            try:
                other.tell((what, arguments))
            except OSError:
                self.fail("a device was lost")
                raise LinnetError(str(self.failure)) from None

    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        super().allocate_cache(spec, pages, kv_dtype, groups)
        self._in_order(lambda: self.tell("allocate_cache", pages, kv_dtype, groups))
        self._hear(otherwise="could not make its KV cache")

    def copy_page(self, source: int, target: int, group: int) -> None:
        def copy() -> None:
            super(LeadOps, self).copy_page(source, target, group)
            self.tell("copy_page", source, target, group)

        self._in_order(copy)

    def free_cache(self) -> None:
        super().free_cache()
        self.end()

    def end(self) -> None:
        """Ends the other processes. Ending twice is no error."""
        self.lose("it was closed")
        for other in self.others:
            other.leave()
        until = time.monotonic() + ENDING_S
        for other in self.others:
            other.end(until)
        self.folder.cleanup()


def _joined(reports: SimpleQueue[tuple[int, str | None]], joining: Future[RankOps]) -> None:
    error = joining.exception()
    reports.put((0, None if error is None else f"{type(error).__name__}: {error}"))


def _heard(lead: ref[LeadOps], reports: SimpleQueue[tuple[int, str | None]], rank: int, report: str | None) -> None:
    """Holds the first rank's op set no longer than others do."""
    reports.put((rank, report))
    ops = lead()
    if ops is not None and report is not None:
        ops.lose(f"rank {rank} {report}")


def work(rank: Rank, orders: Orders, report: Report) -> None:
    """The life of a rank that is not the first: does as it is told, until there is nothing more."""
    try:
        report(None)
        ops = rank.join()
        report(None)
        checkpoint = open_checkpoint(rank.model)
        share = Share(checkpoint.spec, rank.rank, rank.size)
        spec, weights = share.own_spec, load_share(checkpoint, ops, share, rank.target)
        # Hidden states alone: logits are the first rank's, and no sum of theirs goes round.
        run = ops.stepper(spec, partial(forward, ops, spec, weights, "hidden"))
        report(None)

        def allocate_cache(*arguments: Any) -> None:
            ops.allocate_cache(spec, *arguments)
            report(None)

        does: dict[str, Callable[..., Any]] = {"step": run, "copy_page": ops.copy_page, "allocate_cache": allocate_cache}
        while (order := orders.get()) is not None:
            what, arguments = order
            does[what](*arguments)
    except Exception as error:
        with suppress(OSError):  # there may be nobody left who hears it
            report(f"stopped: {type(error).__name__}: {error}")


def load_share(checkpoint: Checkpoint, ops: TorchOps, share: Share, target: TensorType | None) -> Weights:
    """A rank's weights; of the others' bytes none are read."""
    return with_partial_sums(checkpoint.assemble(ops, target, share))
