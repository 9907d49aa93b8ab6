"""What a model's tokens cost, from its spec and its tensors' types: the bytes that are read and the multiply-adds that are done."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.arch.spec import ModelSpec
from linnet.bench.cases import Case
from linnet.engine.pages import KV_BYTES
from linnet.load.assemble import plan
from linnet.load.checkpoint import Checkpoint
from linnet.load.convert import loaded_as
from linnet.tensors import TensorType


@dataclass(frozen=True)
class Cost:
    """Of a model in the types that it is loaded as.

    weight_bytes: all of its matrices in memory. step_bytes: those that a step reads whole, whatever its tokens: all but
    the embedding, of which it takes a few rows (where the output is tied to it, it is read too).
    layer_multiply_adds, output_multiply_adds: weights that each token, and each row of logits, is multiplied with.
    """

    spec: ModelSpec
    kv_dtype: str
    weight_bytes: int
    step_bytes: int
    layer_multiply_adds: int
    output_multiply_adds: int

    def prompt_multiply_adds(self, length: int) -> float:
        """Of one token of a prompt, on average: weights, and queries times keys and weights times values of what it sees. The
        logits are those of the last token alone."""
        seen = sum(2 * layer.attention.query_width * _mean_seen(length, layer.attention.window) for layer in self.spec.layers)
        return self.layer_multiply_adds + seen + self.output_multiply_adds / length

    def generated_step_bytes(self, case: Case) -> float:
        """Read by one step that generates a token for every request of a case, on average over its answers."""
        length = case.input_len + case.output_len / 2
        cached = sum(2 * layer.attention.kv_width * min(length, layer.attention.window or length) for layer in self.spec.layers)
        return self.step_bytes + case.batch_size * cached * KV_BYTES[self.kv_dtype]


def model_cost(checkpoint: Checkpoint, kv_dtype: str, target: TensorType | None = None) -> Cost:
    """The cost of a checkpoint that is loaded with `target` (None: as stored); reads no weights."""
    spec, source = checkpoint.spec, checkpoint.source
    weight_bytes = step_bytes = layer_multiply_adds = output_multiply_adds = 0
    for slot in plan(spec, checkpoint.table, source, checkpoint.naming, checkpoint.strict):
        if len(slot.shape) < 2:
            continue
        fits = target is not None and slot.shape[-1] % target.block == 0
        nbytes = (target if target is not None and fits else loaded_as(source.type(slot.name))).nbytes(slot.shape)
        weight_bytes += nbytes
        is_output = slot.field == "output" or (slot.field == "embedding" and spec.tied)
        if slot.layer is not None or is_output:
            step_bytes += nbytes
        if slot.layer is not None:
            layer_multiply_adds += slot.shape[0] * slot.shape[1]
        elif is_output:
            output_multiply_adds = slot.shape[0] * slot.shape[1]
    return Cost(spec, kv_dtype, weight_bytes, step_bytes, layer_multiply_adds, output_multiply_adds)


def _mean_seen(length: int, window: int | None) -> float:
    """How many positions a token of a prompt sees, itself included, on average."""
    window = min(window or length, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length
