"""From options to the op set that computes, and the memory that its weights leave."""

from __future__ import annotations

from math import prod

from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.model_options import ModelOptions
from linnet.ops.base import Ops


def open_op_set(options: ModelOptions) -> Ops:
    """Raises InvalidRequestError for a device that is not there or cannot do what is asked, MissingDependencyError without its package."""
    if options.op_set == "torch":
        return _torch(options.device, options.dtype)
    if options.op_set == "reference":
        from linnet.ops.reference import ReferenceOps

        return ReferenceOps()
    from linnet.ops.native import NativeOps

    return NativeOps(options.threads, prefill_threads=options.prefill_threads, pack=not options.low_memory)


def _torch(name: str | None, dtype: str | None) -> Ops:
    from linnet.ops.torch.devices import dtype_of, open_device, usual_device

    device = open_device(name or usual_device())
    chosen = dtype_of(device, dtype)
    from linnet.ops.torch.ops import TorchOps

    return TorchOps(device, chosen)


def weights_and_memory(ops: Ops, checkpoint: Checkpoint) -> tuple[int, int | None]:
    """Bytes that the weights will take, and bytes that there are for them and the KV cache; None: what the machine has."""
    if ops.name != "torch":
        return checkpoint.nbytes, None
    from linnet.ops.torch.devices import free_memory
    from linnet.ops.torch.ops import TorchOps

    assert isinstance(ops, TorchOps)
    slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
    return sum(prod(slot.field_shape) for slot in slots) * ops.dtype.itemsize, free_memory(ops.device)
