"""The processes of tensor parallelism: one for each device, which run the same forward; the first is the caller's own.

The caller's has the engine: pages, scheduling and sampling. It tells the others each batch, through a pipe; sums pass between the
devices by torch.distributed (NCCL between CUDA devices, gloo elsewhere).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from linnet.arch.spec import ModelSpec
from linnet.errors import LinnetError
from linnet.forward import forward
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.ops.base import Batch
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.shards import Share, with_partial_sums
from linnet.tensors import TensorType
from linnet.weights import Weights

logger = logging.getLogger("linnet.ops")

LOADING = timedelta(minutes=30)
"""How long a device waits for the others, at most: while the slowest reads its weights. One whose process ended is noticed at once."""

ENDING_S = 5.0


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
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            made = backends.ProcessGroupNCCL
        else:
            made = backends.ProcessGroupGloo
        return RankOps(self.device, self.dtype, made(backends.FileStore(self.store, self.size), self.rank, self.size, LOADING))


class RankOps(TorchOps):
    """`TorchOps` whose sums are those of all ranks."""

    def __init__(self, device: torch.device, dtype: torch.dtype, group: Any) -> None:
        super().__init__(device, dtype)
        self.group = group

    def summed(self, terms: torch.Tensor) -> torch.Tensor:
        terms = terms.contiguous()
        self.group.allreduce([terms]).wait()
        return terms


class LeadOps(RankOps):
    """The op set of the first rank, which starts the others and has them do what it does.

    ranks: all of them; `store` is made here. Once one of them has failed, nothing more runs: each step raises LinnetError with the
    reason.
    """

    def __init__(self, ranks: list[Rank]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="linnet-")
        store = str(Path(self.folder.name) / "ranks")
        self.others = [_Other(Rank(r.rank, r.size, r.device, r.dtype, r.model, r.target, store)) for r in ranks[1:]]
        self.failure: str | None = None
        first = ranks[0]
        try:
            self.hear("could not start")
            joined = Rank(0, first.size, first.device, first.dtype, first.model, first.target, store).join()
        except BaseException:
            self.end()
            raise
        super().__init__(first.device, first.dtype, joined.group)

    def await_weights(self) -> None:
        """Until every rank has read its own. Raises LinnetError with the reason of the one that could not."""
        self.hear("could not load the model")

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

    def compute(self, spec: ModelSpec, build: Callable[[], torch.Tensor], batch: Batch) -> torch.Tensor:
        try:
            self.tell("step", batch)
            return super().compute(spec, build, batch)
        except Exception as error:  # the others are now at another place than this one, whatever it was
            if self.failure is None:
                self.failure = next((f"rank {other.rank} {other.ended()}" for other in self.others if other.is_lost()), str(error))
                self.end()
            raise LinnetError(f"a device of {len(self.others) + 1} failed ({self.failure}); open the model again") from error

    def tell(self, what: str, *arguments: Any) -> None:
        if self.failure is not None:
            raise LinnetError(self.failure)
        for other in self.others:
            try:
                other.pipe.send((what, arguments))
            except OSError:
                raise LinnetError(f"rank {other.rank} {other.ended()}") from None

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
        self.failure = self.failure or "it was closed"
        for other in self.others:
            other.end()
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

    def is_lost(self) -> bool:
        """Whether the process has ended, or is about to: it then said why, or closed its pipe."""
        self.process.join(1.0)
        return not self.process.is_alive() or self.pipe.poll()

    def ended(self) -> str:
        try:
            if self.pipe.poll():
                return f"stopped: {self.pipe.recv()}"
        except (EOFError, OSError):
            pass
        self.process.join(1.0)
        return f"ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        self.pipe.close()  # it sees that, and leaves
        self.process.join(ENDING_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(rank: Rank, pipe: Connection) -> None:
    """The life of a rank that is not the first: does as it is told, until the pipe is closed."""
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


def load_share(checkpoint: Checkpoint, ops: TorchOps, share: Share, target: TensorType | None) -> Weights:
    """A rank's weights; of the others' bytes none are read."""
    return with_partial_sums(checkpoint.assemble(ops, target, share))
