"""Opens the op set that the options ask for; says which part of the model it computes, and how much memory that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linnet.arch.spec import ModelSpec
from linnet.errors import InvalidRequestError, OutOfMemoryError
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.load.field import WeightOps, type_in_memory
from linnet.load.weight_bytes import bytes_of
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.ops.base import Ops
from linnet.ops.torch.placement import place
from linnet.tensors import F32, TensorType
from linnet.weights import Weights

if TYPE_CHECKING:
    from torch import dtype as DType


@dataclass(frozen=True)
class OpSet:
    """An open op set. spec: what it computes, the checkpoint's spec, or with several devices this one's share.

    weight_bytes: what the weights will take on its device. memory: bytes for weights and KV cache together; None: what the machine has.
    offloaded: the layers whose weights stay in host memory.
    """

    ops: Ops
    spec: ModelSpec
    weight_bytes: int
    memory: int | None = None
    share: Any = None
    offloaded: range = range(0)

    def load(self, checkpoint: Checkpoint, options: ModelOptions) -> Weights:
        if self.share is None:
            return checkpoint.assemble(self.ops, options.target, elsewhere=self._elsewhere())
        from linnet.ranks import LeadOps, load_share

        assert isinstance(self.ops, LeadOps)
        weights = load_share(checkpoint, self.ops, self.share, options.target)
        self.ops.await_weights()
        return weights

    def _elsewhere(self) -> dict[int, WeightOps]:
        if not self.offloaded:
            return {}
        from linnet.ops.torch.ops import HostWeights, TorchOps

        assert isinstance(self.ops, TorchOps)
        return dict.fromkeys(self.offloaded, HostWeights(self.ops))

    def close(self) -> None:
        """Frees what the op set holds, whether an engine was built on it or not. May be called twice."""
        self.ops.free_cache()


def open_op_set(options: ModelOptions, checkpoint: Checkpoint) -> OpSet:
    """Raises InvalidRequestError if a device does not exist, cannot do what is asked, or the model cannot be divided over several, and
    MissingDependencyError without the package that it needs."""
    if options.op_set == "torch":
        return _torch(options, checkpoint)
    if options.op_set == "reference":
        from linnet.ops.reference import ReferenceOps

        return OpSet(ReferenceOps(), checkpoint.spec, checkpoint.nbytes)
    from linnet.ops.native import NativeOps

    ops = NativeOps(options.threads, prefill_threads=options.prefill_threads, pack=not options.low_memory)
    return OpSet(ops, checkpoint.spec, bytes_of(checkpoint, options.target, mapped=options.low_memory))


def _torch(options: ModelOptions, checkpoint: Checkpoint) -> OpSet:
    from linnet.ops.torch.devices import check_compiler, dtype_of, free_memory, open_devices, open_kernels

    devices = open_devices(options.device, options.tp)
    dtype = dtype_of(devices[0], options.dtype)
    from linnet.ops.torch.decode import compiled, cuda_graph
    from linnet.ops.torch.ops import TorchOps
    from linnet.ops.torch.shards import Share
    from linnet.ranks import LeadOps, Rank

    layers, outside, largest = torch_bytes(checkpoint, options.target, dtype)
    memory = min((free for device in devices if (free := free_memory(device)) is not None), default=None)
    if options.tp == 1:
        placed = place(layers, outside, largest, options.offload, memory, options.kv_memory)
        pinned = devices[0].type == "cuda"
        on_host = sum(torch_bytes(checkpoint, options.target, dtype, pinned)[0][placed.layers.start :]) if placed.layers else 0
        if on_host and memory is not None and on_host > (there := available_memory()):
            raise OutOfMemoryError(
                f"{len(placed.layers)} layers are to stay in host memory and take {on_host} bytes, of which {there} are available; "
                "choose smaller weights, as q4_0"
            )
        # A graph holds what lies on the device alone.
        capture = cuda_graph(devices[0]) if devices[0].type == "cuda" and not placed.layers else None
        if options.compile:
            check_compiler(devices[0])
            capture = compiled(capture)
        ops = TorchOps(devices[0], dtype, capture, open_kernels(devices[0]))
        return OpSet(ops, checkpoint.spec, placed.on_device, memory, offloaded=placed.layers)
    share = Share(checkpoint.spec, 0, options.tp)
    if checkpoint.path is None:
        raise InvalidRequestError(f"tp is {options.tp}, and every device reads the model's files: save this one, which is in memory only")
    ranks = [Rank(rank, options.tp, device, dtype, checkpoint.path, options.target, "") for rank, device in enumerate(devices)]
    return OpSet(LeadOps(ranks), share.own_spec, sum(layers) // options.tp + outside, memory, share)


def torch_bytes(checkpoint: Checkpoint, target: TensorType | None, dtype: DType, pinned: bool = False) -> tuple[list[int], int, int]:
    """Bytes of the weights on the torch op set: those of the matrices of each layer, those of everything else, and those of the largest
    matrix of a layer. pinned: rounded up to powers of two, as PyTorch pins host memory."""
    from linnet.ops.torch.matrices import matrix_bytes

    layers, outside, largest = [0] * len(checkpoint.spec.layers), 0, 0
    for slot in plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict):
        if not slot.is_matrix:
            outside += F32.nbytes(slot.field_shape)
            continue
        type = type_in_memory(slot, checkpoint.source.type(slot.names[0]), target)
        count = matrix_bytes(type, slot.field_shape, dtype)
        count = 1 << (count - 1).bit_length() if pinned else count
        if slot.layer is None:
            outside += count
        else:
            layers[slot.layer] += count
            largest = max(largest, count)
    return layers, outside, largest
