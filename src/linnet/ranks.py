"""The processes of tensor parallelism: one for each device, which run the same forward; the first is the caller's own.

The caller's has the engine: pages, scheduling and sampling. It tells the others each batch, through a pipe; sums pass between the
devices by torch.distributed (NCCL between CUDA devices, gloo elsewhere).
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from weakref import ref

import torch
import torch.distributed as distributed

from linnet.arch.spec import ModelSpec
from linnet.errors import LinnetError
from linnet.forward import forward
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.ops.base import Batch
from linnet.ops.torch.devices import open_kernels
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.shards import Share, with_partial_sums
from linnet.tensors import TensorType
from linnet.weights import Weights

logger = logging.getLogger("linnet.ops")

LOADING = timedelta(minutes=30)
"""How long a device waits for the others, at most: while the slowest reads its weights. One whose process ended is noticed at once."""

ENDING_S = 5.0
"""How long processes have to leave by themselves, all of them together."""


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
        """The op set of this rank, once all of them are there."""
        backends: Any = distributed
        meeting = backends.FileStore(self.store, self.size), self.rank, self.size
        if self.device.type != "cuda":
            return RankOps(self.device, self.dtype, backends.ProcessGroupGloo(*meeting, LOADING))
        torch.cuda.set_device(self.device)
        # Left alone, NCCL's watchdog ends the whole process when another one is lost; here the first rank sees to that (`LeadOps`).
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        options = backends.ProcessGroupNCCL.Options()
        options._timeout = LOADING
        return RankOps(self.device, self.dtype, backends.ProcessGroupNCCL(*meeting, options))


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
    reason.
    """

    def __init__(self, ranks: list[Rank]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="linnet-")
        store = str(Path(self.folder.name) / "ranks")
        first, *others = (replace(rank, store=store) for rank in ranks)
        self.others = [_Other(rank) for rank in others]
        self.failure: str | None = None
        self._failing = Lock()
        try:
            self.hear("could not start")
            joined = first.join()
        except BaseException:
            self.end()
            raise
        super().__init__(first.device, first.dtype, joined.group)

    def await_weights(self) -> None:
        """Until every rank has read its own. Raises LinnetError with the reason of the one that could not."""
        self.hear("could not load the model")
        ends = [other.process.sentinel for other in self.others]
        Thread(target=_watch, args=(ref(self), ends), name="linnet ranks", daemon=True).start()

    def hear(self, otherwise: str) -> None:
        """Until every other rank says that it has come as far as it was to."""
        for other in self.others:
            try:
                failure = other.pipe.recv()
            except EOFError:
                failure = other.ended()
            if failure is not None:
                self.end()
                raise LinnetError(f"rank {other.rank} of {len(self.others) + 1} {otherwise}: {failure}")

    def fail(self, otherwise: str) -> None:
        """Nothing more can run: for the reason of a rank that is lost, or else `otherwise`. The first reason stays."""
        with self._failing:
            if self.failure is None:
                lost = wait([signal for other in self.others for signal in (other.process.sentinel, other.pipe)], 1.0)
                found = (other for other in self.others if other.process.sentinel in lost or other.pipe in lost)
                self.failure = next((f"rank {other.rank} {other.ended()}" for other in found), otherwise)

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
                other.pipe.send((what, arguments))
            except OSError:
                self.fail("a device was lost")
                raise LinnetError(str(self.failure)) from None

    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        super().allocate_cache(spec, pages, kv_dtype, groups)
        self.tell("allocate_cache", pages, kv_dtype, groups)

    def copy_page(self, source: int, target: int, group: int) -> None:
        super().copy_page(source, target, group)
        self.tell("copy_page", source, target, group)

    def free_cache(self) -> None:
        super().free_cache()
        self.end()

    def end(self) -> None:
        """Ends the other processes. Ending twice is no error."""
        with self._failing:
            self.failure = self.failure or "it was closed"
        for other in self.others:
            other.pipe.close()  # it sees that, and leaves
        until = time.monotonic() + ENDING_S
        for other in self.others:
            other.end(until)
        self.folder.cleanup()


class _Other:
    """The process of another rank, as the first sees it."""

    def __init__(self, rank: Rank) -> None:
        context = get_context("spawn")
        self.rank = rank.rank
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(rank, theirs), name=f"linnet rank {rank.rank}", daemon=True)
        self.process.start()
        theirs.close()

    def ended(self) -> str:
        """Why, as it said itself, or else its exit code."""
        try:
            if self.pipe.poll():
                return f"stopped: {self.pipe.recv()}"
        except (EOFError, OSError):
            pass
        self.process.join(1.0)
        return f"ended with exit code {self.process.exitcode}"

    def end(self, until: float) -> None:
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():  # it waits for its device, which waits for others
            self.process.kill()
            self.process.join()


def _watch(lead: ref[LeadOps], ends: list[int]) -> None:
    """Until a process ends: then whoever waits for its terms is let go. Holds the first rank's op set no longer than others do."""
    wait(ends)
    ops = lead()
    if ops is not None and ops.failure is None:
        ops.fail("a device was lost")
        ops.abandon()


def _work(rank: Rank, pipe: Connection) -> None:
    """The life of a rank that is not the first: does as it is told, until the pipe is closed."""
    Thread(target=_leave_with_parent, daemon=True).start()
    try:
        pipe.send(None)
        ops = rank.join()
        checkpoint = open_checkpoint(rank.model)
        share = Share(checkpoint.spec, rank.rank, rank.size)
        spec, weights = share.own_spec, load_share(checkpoint, ops, share, rank.target)
        # Hidden states alone: logits are the first rank's, and no sum of theirs goes round.
        run = ops.stepper(spec, partial(forward, ops, spec, weights, "hidden"))
        pipe.send(None)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    does: dict[str, Callable[..., Any]] = {"step": run, "copy_page": ops.copy_page}
    does["allocate_cache"] = partial(ops.allocate_cache, spec)
    while True:
        try:
            what, arguments = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            does[what](*arguments)
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")
            return


def _leave_with_parent() -> None:
    """Ends this process with the one that began it, in whatever it waits for."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def load_share(checkpoint: Checkpoint, ops: TorchOps, share: Share, target: TensorType | None) -> Weights:
    """A rank's weights; of the others' bytes none are read."""
    return with_partial_sums(checkpoint.assemble(ops, target, share))
