"""What a model's tokens cost, from its spec and its tensors' types: the bytes that are read and the multiply-adds that are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from linnet.arch.spec import Attention, GatedDeltaNet, ModelSpec, Moe
from linnet.bench.cases import Case
from linnet.bench.machine import Machine
from linnet.engine.page_plan import KV_BYTES
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.load.field import TABLES, type_in_memory
from linnet.tensors import TensorType

Sized: TypeAlias = Callable[[TensorType, tuple[int, ...]], int]


@dataclass(frozen=True)
class Cost:
    """Of a model in the types that it is loaded as.

    weight_bytes: all of its matrices in memory. step_bytes: those that a step reads whole, whatever its tokens: all but
    the embedding, of which it takes a few rows (where the output is tied to it, it is read too), and experts.
    expert_bytes: all experts' matrices, by the share of them that a token chooses.
    layer_multiply_adds, output_multiply_adds: weights that each token, and each row of logits, is multiplied with; integer_share:
    of the former, how many are of block formats, which are multiplied as integers.
    """

    spec: ModelSpec
    kv_dtype: str
    weight_bytes: int
    step_bytes: int
    expert_bytes: dict[float, int]
    layer_multiply_adds: int
    output_multiply_adds: int
    integer_share: float

    def prompt_multiply_adds(self, length: int) -> float:
        """Of one token of a prompt, on average: weights, and queries times keys and weights times values of what it sees. The
        logits are those of the last token alone."""
        seen = 0.0
        for attention in self.spec.attentions:
            seen += (attention.query_width + attention.output_width) * _mean_seen(length, attention.window)
        for net in (layer.mixer for layer in self.spec.layers if isinstance(layer.mixer, GatedDeltaNet)):
            seen += 3 * net.value_width * net.key_dim  # what the state says of the key, its update, and what the query reads
        return self.layer_multiply_adds + seen + self.output_multiply_adds / length

    def prompt_seconds(self, length: int, machine: Machine) -> float | None:
        """The least that a prompt's token can take, on average, where arithmetic is all that it waits for: weights of block formats at
        the peak of integers, the rest at that of float32. None where the machine's peaks are not known."""
        if not (machine.integer_peak and machine.float_peak):
            return None
        whole, weights = self.prompt_multiply_adds(length), self.layer_multiply_adds * self.integer_share
        return weights / machine.integer_peak + (whole - weights) / machine.float_peak

    def generated_step_bytes(self, case: Case) -> float:
        """Read by one step that generates a token for every request of a case, on average over its answers."""
        length = case.input_len + case.output_len / 2
        cached = 0.0
        for attention in self.spec.attentions:
            cached += (attention.key_width + attention.value_width) * min(length, attention.window or length)
        states = sum(4 * layer.mixer.state_size for layer in self.spec.layers if not isinstance(layer.mixer, Attention))
        each = cached * KV_BYTES[self.kv_dtype] + states
        return self.step_bytes + self._expert_bytes(case.batch_size) + case.batch_size * each

    def _expert_bytes(self, rows: int) -> float:
        """Read of experts by a step of so many rows, were each to choose at random: those that nobody chooses are not read."""
        return sum(nbytes * (1 - (1 - share) ** rows) for share, nbytes in self.expert_bytes.items())


def model_cost(checkpoint: Checkpoint, kv_dtype: str, target: TensorType | None = None, sized: Sized = TensorType.nbytes) -> Cost:
    """The cost of a checkpoint that is loaded with `target` (None: as stored); reads no weights. sized: bytes of a matrix of a type and a
    shape, as the op set keeps it."""
    spec, source = checkpoint.spec, checkpoint.source
    weight_bytes = step_bytes = layer_multiply_adds = output_multiply_adds = integers = 0
    expert_bytes: dict[float, int] = {}
    for slot in plan(spec, checkpoint.table, source, checkpoint.naming, checkpoint.strict):
        if not slot.is_matrix:
            continue
        type = type_in_memory(slot, source.type(slot.names[0]), target)
        nbytes = sized(type, slot.field_shape)
        weight_bytes += nbytes
        before = layer_multiply_adds
        mlp = None if slot.layer is None else spec.layers[slot.layer].mlp
        if slot.is_stack:
            assert isinstance(mlp, Moe)
            share = mlp.router.active / mlp.experts
            expert_bytes[share] = expert_bytes.get(share, 0) + nbytes
            layer_multiply_adds += round(prod(slot.field_shape) * share)
        elif slot.field == "output.matrix" or (slot.field == "embedding" and spec.tied):
            step_bytes += nbytes
            output_multiply_adds = prod(slot.field_shape)
        elif slot.field not in TABLES:
            step_bytes += nbytes
            layer_multiply_adds += prod(slot.field_shape)
        integers += layer_multiply_adds - before if type.block > 1 else 0
    share = integers / max(1, layer_multiply_adds)
    return Cost(spec, kv_dtype, weight_bytes, step_bytes, expert_bytes, layer_multiply_adds, output_multiply_adds, share)


def _mean_seen(length: int, window: int | None) -> float:
    """How many positions a token of a prompt sees, itself included, on average."""
    window = min(window or length, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length
