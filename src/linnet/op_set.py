"""From options to the op set that computes, what of the model it computes, and the memory that this takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from linnet.arch.spec import ModelSpec
from linnet.errors import InvalidRequestError
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.model_options import ModelOptions
from linnet.ops.base import Ops
from linnet.tensors import TYPES, TensorType
from linnet.weights import Weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class OpSet:
    """The op set, open; `spec` is what it computes of the checkpoint's: all, or with several devices its share.

    weight_bytes: what the weights will take. memory: bytes that there are for them and the KV cache; None: what the machine has.
    """

    ops: Ops
    spec: ModelSpec
    weight_bytes: int
    memory: int | None = None
    share: Any = None

    def load(self, checkpoint: Checkpoint, options: ModelOptions) -> Weights:
        if self.share is None:
            return checkpoint.assemble(self.ops, _target(options))
        from linnet.ranks import LeadOps, load_share

        assert isinstance(self.ops, LeadOps)
        weights = load_share(checkpoint, self.ops, self.share, _target(options))
        self.ops.await_weights()
        return weights

    def close(self) -> None:
        """Ends what it began, whether an engine was made of it or not; closing twice is no error."""
        self.ops.free_cache()


def open_op_set(options: ModelOptions, checkpoint: Checkpoint) -> OpSet:
    """Raises InvalidRequestError for a device that is not there, that cannot do what is asked, or that the model cannot be divided
    over, and MissingDependencyError without its package."""
    if options.op_set == "torch":
        return _torch(options, checkpoint)
    if options.op_set == "reference":
        from linnet.ops.reference import ReferenceOps

        return OpSet(ReferenceOps(), checkpoint.spec, checkpoint.nbytes)
    from linnet.ops.native import NativeOps

    ops = NativeOps(options.threads, prefill_threads=options.prefill_threads, pack=not options.low_memory)
    return OpSet(ops, checkpoint.spec, checkpoint.nbytes)


def _torch(options: ModelOptions, checkpoint: Checkpoint) -> OpSet:
    from linnet.ops.torch.devices import dtype_of, free_memory, open_devices

    devices = open_devices(options.device, options.tp)
    dtype = dtype_of(devices[0], options.dtype)
    from linnet.ops.torch.ops import TorchOps
    from linnet.ops.torch.shards import Share
    from linnet.ranks import LeadOps, Rank

    slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
    weight_bytes = sum(prod(slot.field_shape) for slot in slots) * dtype.itemsize
    memory = free_memory(devices[0])
    if options.tp == 1:
        return OpSet(TorchOps(devices[0], dtype), checkpoint.spec, weight_bytes, memory)
    share = Share(checkpoint.spec, 0, options.tp)
    if checkpoint.path is None:
        raise InvalidRequestError(f"tp is {options.tp}, and every device reads the model's files: save this one, which is in memory only")
    ranks = [Rank(rank, options.tp, device, dtype, checkpoint.path, _target(options), "") for rank, device in enumerate(devices)]
    return OpSet(LeadOps(ranks), share.own_spec, weight_bytes // options.tp, memory, share)


def _target(options: ModelOptions) -> TensorType | None:
    return None if options.weights == "auto" else TYPES[options.weights]
