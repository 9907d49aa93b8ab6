"""`TorchOps`: the `Ops` protocol on tensors. Everything here is asked of PyTorch; nothing knows which device it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from linnet.arch.rope_spec import Rope
from linnet.arch.spec import Activation, Attention, GatedDeltaNet, ModelSpec, Moe, Norm, Output
from linnet.errors import OutOfMemoryError
from linnet.load.dequantize import dequantize
from linnet.load.encode import encoded
from linnet.ops.base import Batch, Step
from linnet.ops.sampling import sample
from linnet.ops.torch.attention import attend
from linnet.ops.torch.cache import Cache
from linnet.ops.torch.decode import Capture, DecodeSteps, Inputs
from linnet.ops.torch.draw import TorchStep
from linnet.ops.torch.experts import route
from linnet.ops.torch.matrices import Kernels, Matrix, Offloaded, Packed, Plain, pack, product, rows_of
from linnet.ops.torch.recurrent import convolve, delta_rule
from linnet.ops.torch.shards import Partial
from linnet.ops.torch.step import DeviceBatch
from linnet.tensors import BF16, F16, F32, RawTensor, TensorType
from linnet.weights import FilterWeights, Linear, MlpWeights, NormWeights

logger = logging.getLogger("linnet.ops")

DTYPES = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}


class TorchOps:
    """`Ops` in PyTorch. Matrices and X are tensors [rows, width] of `dtype`, vectors are float32.

    device: where everything lies and is computed. Norms, rotation, routing and the logits are float32 whatever `dtype` is.
    Quantized weights stay integers (`matrices.py`) and are computed with in `dtype`, the values that their type holds.
    capture: how steps of one token for each sequence are captured, once for each of a few sizes (`decode.py`); None: every step is asked
    of PyTorch op by op. kernels: Triton's, for decoding (`kernels.py`); None: PyTorch's own operations.
    """

    name = "torch"
    keeps_bits = False

    def __init__(self, device: torch.device, dtype: torch.dtype, capture: Capture | None = None, kernels: Kernels | None = None) -> None:
        self.device, self.dtype, self.capture, self.kernels = device, dtype, capture, kernels
        self.cache: Cache | None = None
        self.step: DeviceBatch | Inputs
        self._slopes: dict[tuple[float, ...], Tensor] = {}
        self._told: set[str] = set()

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Plain:
        return self._on_device(self.encoded([raw], target), raw.name)

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> Plain:
        return self._on_device(self.encoded(raws, target, stacked=True), raws[0].name)

    def vector(self, raw: RawTensor) -> Tensor:
        return torch.from_numpy(dequantize(raw)).to(self.device)

    def owns(self, matrix: Matrix) -> bool:
        return True

    def encoded(self, raws: Sequence[RawTensor], target: TensorType | None, stacked: bool = False) -> Plain:
        """A matrix, or several stacked, as it is computed with, on the processor, in memory of its own."""
        if target is not None and target != raws[0].type:
            raws = [encoded(raw, target) for raw in raws]
        type = raws[0].type
        if type in DTYPES:
            stored = [torch.from_numpy(raw.data.copy()).view(DTYPES[type]).view(raw.shape).to(self.dtype) for raw in raws]
            return torch.stack(stored) if stacked else stored[0]
        packed = pack(raws, self.dtype, stacked)
        if type.name not in self._told:
            self._told.add(type.name)
            kept, bits = str(packed.scales.dtype).removeprefix("torch."), 4 if packed.low else 8
            logger.info("%s weights are kept as %d-bit integers with %s scales, and computed with as %s", type.name, bits, kept, self.dtype)
        return packed

    def _on_device(self, matrix: Plain, name: str) -> Plain:
        try:
            return matrix.to(self.device)
        except torch.OutOfMemoryError:
            raise OutOfMemoryError(f"device {self.device} has no room for tensor {name!r} {tuple(matrix.shape)} in {self.dtype}") from None

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], Tensor]) -> Step:
        decode = None if self.capture is None else DecodeSteps(self, spec, build, self.capture)

        def compute(batch: Batch) -> Tensor:
            with self._on_device_of_step(batch):
                if decode is not None and decode.suits(batch):
                    return decode(batch)
                return self.compute(spec, build, batch)

        return TorchStep(compute)

    def compute(self, spec: ModelSpec, build: Callable[[], Tensor], batch: Batch) -> Tensor:
        """What a forward gives for a batch, float32."""
        self.step = DeviceBatch(batch, self.device, spec.bidirectional_prompt)
        return build().float()

    @contextmanager
    def _on_device_of_step(self, batch: Batch) -> Iterator[None]:
        """Makes the device the current one of this thread, which Triton and graphs go by; says what it has no room for."""
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                yield
        except torch.OutOfMemoryError as error:
            rows, wanted = len(batch.tokens), len(batch.rows)
            reason = str(error).split("\n", 1)[0]
            raise OutOfMemoryError(
                f"device {self.device} has no room for a step of {rows} tokens with logits of {wanted} ({reason}); "
                "lower prefill_chunk or max_batch"
            ) from None

    # ---- ops of a forward
    def embed(self, table: Matrix, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> Tensor:
        if source == "previous":
            previous = self.step.previous
            return torch.where(previous[:, None] >= 0, rows_of(table, previous.clamp(min=0), self.dtype), 0)
        return rows_of(table, self.step.tokens if source == "tokens" else self.step.positions + offset, self.dtype)

    def norm(self, x: Tensor, weights: NormWeights, norm: Norm, groups: int = 1) -> Tensor:
        parts = x.view(len(x), groups, x.shape[1] // groups).float()  # of no rows too
        if norm.kind == "layer":
            parts = functional.layer_norm(parts, parts.shape[-1:], eps=norm.epsilon)
        else:
            parts = functional.rms_norm(parts, parts.shape[-1:], eps=norm.epsilon)
        if weights.weight is not None:
            parts = parts * weights.weight.view(-1, parts.shape[-1])  # one for all parts, or one each
        if weights.bias is not None:
            parts = parts + weights.bias.view(-1, parts.shape[-1])
        return parts.to(x.dtype).view(x.shape)

    def linear(self, x: Tensor, matrix: Matrix | Partial, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        if not isinstance(matrix, Partial):
            return product(x, matrix, bias, self.kernels)
        x = self.summed(product(x, matrix.values, None, self.kernels))
        return x if bias is None else x + bias

    def summed(self, terms: Tensor) -> Tensor:
        """The sum of what every device has of `terms`; there is one here."""
        return terms

    def rotate(self, x: Tensor, rope: Rope, head_dim: int) -> Tensor:
        cos, sin = self.step.angles(rope)
        heads = x.view(len(x), -1, head_dim)
        source, half = heads[..., rope.start : rope.start + rope.dim], rope.dim // 2  # in float32 with the cosines, which are
        first, second = (source[..., 0::2], source[..., 1::2]) if rope.interleaved else (source[..., :half], source[..., half:])
        turned = first * cos - second * sin, second * cos + first * sin
        rotated = (torch.stack(turned, dim=-1).flatten(-2) if rope.interleaved else torch.cat(turned, dim=-1)).to(x.dtype)
        if rope.dim == head_dim:
            return rotated.view(x.shape)
        out = heads.clone()
        out[..., rope.start : rope.start + rope.dim] = rotated
        return out.view(x.shape)

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: int, attention: Attention, sinks: Tensor | None) -> Tensor:
        assert self.cache is not None
        keys, values, group = self.cache.keys[layer], self.cache.values[layer], self.cache.groups[layer]
        if k is not None and v is not None:
            keys.write(self.step.places(group), k)
            values.write(self.step.places(group), v)
        results = []
        for part in self.step.parts:
            queries = q[part.rows].view(*part.positions.shape, attention.heads, attention.head_dim)
            if self.kernels is not None and queries.shape[1] == 1:
                at = (part.tables[group], part.positions[:, 0], part.ends[:, 0])
                result = self.kernels.attend_pages(queries[:, 0], keys, values, *at, attention, self._alibi(attention), sinks)
            else:
                seen = keys.read(part.places[group], q.dtype), values.read(part.places[group], q.dtype)
                result = attend(queries, *seen, part, attention, self._alibi(attention), sinks)
            results.append(result.reshape(-1, attention.output_width))
        if len(results) == 1:  # all rows, in order
            return results[0]
        out = q.new_empty(len(q), attention.output_width)
        for part, result in zip(self.step.parts, results, strict=True):
            out[part.rows] = result
        return out

    def _alibi(self, attention: Attention) -> Tensor | None:
        if attention.alibi is None:
            return None
        if attention.alibi not in self._slopes:
            self._slopes[attention.alibi] = torch.tensor(attention.alibi, dtype=torch.float32, device=self.device)
        return self._slopes[attention.alibi]

    def convolve(self, x: Tensor, weights: FilterWeights, layer: int, taps: int, start: int = 0) -> Tensor:
        assert self.cache is not None
        stretches = self.step.stretches(self.cache.groups[layer])
        return convolve(x, weights, self.cache.states[layer], stretches, taps, start, self.kernels)

    def delta_rule(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, strength: Tensor, decay: Tensor, layer: int, mixer: GatedDeltaNet
    ) -> Tensor:
        assert self.cache is not None
        stretches = self.step.stretches(self.cache.groups[layer])
        return delta_rule(q, k, v, rate, strength, decay, self.cache.states[layer], stretches, mixer, self.kernels)

    def experts(
        self, x: Tensor, logits: Tensor, weights: MlpWeights, moe: Moe, correction: Tensor | None, scale: Tensor | None = None
    ) -> Tensor:
        chosen, shares = route(logits.float(), moe.router, correction)
        shares = shares if scale is None else shares * scale[chosen]
        out = (self._gathered if isinstance(self.step, Inputs) else self._grouped)(x, chosen, weights, moe)
        if isinstance(weights.down.matrix, Partial):
            out = self.summed(out)
        if weights.down.bias is not None:
            out = out + weights.down.bias[chosen].to(x.dtype)
        return (out.float() * shares[..., None]).sum(1).to(x.dtype)

    def _grouped(self, x: Tensor, chosen: Tensor, weights: MlpWeights, moe: Moe) -> Tensor:
        """What the chosen experts give, [n, active, hidden], without their last bias: expert by expert, of all its rows."""
        flat = chosen.flatten()  # of row r: entries r * active and on
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=moe.experts).tolist()
        out = x.new_empty(len(flat), x.shape[1])
        for expert, rows in enumerate(torch.split(order, counts)):
            if len(rows):
                project = partial(self._project, expert)
                out[rows] = self._block(x[rows // moe.router.active], weights, moe, project)
        return out.view(*chosen.shape, -1)

    def _project(self, expert: int, x: Tensor, linear: Linear) -> Tensor:
        return self.linear(x, linear.matrix[expert], None if linear.bias is None else linear.bias[expert])

    def _gathered(self, x: Tensor, chosen: Tensor, weights: MlpWeights, moe: Moe) -> Tensor:
        """The same with a copy of each row's experts: for few rows, and without asking the device which they are."""
        flat = chosen.flatten()

        def project(x: Tensor, linear: Linear) -> Tensor:
            matrices = linear.matrix[flat]
            if isinstance(matrices, Offloaded):
                matrices = matrices.here()
            if isinstance(matrices, Packed):
                matrices = matrices.values(x.dtype) if self.kernels is None else self.kernels.expanded(matrices, x.dtype)
            out = torch.bmm(matrices, x[..., None])[..., 0]
            return out if linear.bias is None else out + linear.bias[flat].to(x.dtype)

        return self._block(x.repeat_interleave(moe.router.active, 0), weights, moe, project).view(*chosen.shape, -1)

    def _block(self, x: Tensor, weights: MlpWeights, moe: Moe, project: Callable[[Tensor, Linear], Tensor]) -> Tensor:
        """A feed-forward block without the last bias, and of a `Partial` one the term that this device has."""
        if moe.expert.gated:
            assert weights.gate is not None
            x = self.gate(project(x, weights.gate), project(x, weights.up), moe.expert.activation)
        else:
            x = self.activate(project(x, weights.up), moe.expert.activation)
        down = weights.down.matrix
        return project(x, Linear(down.values if isinstance(down, Partial) else down))

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return ACTIVATIONS[activation](x)

    def gate(self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        if activation == "clamped_swiglu":
            gate, up = gate.clamp(max=7), up.clamp(-7, 7)
            return gate * torch.sigmoid(1.702 * gate) * (up + 1)
        return self.activate(gate, activation) * up

    def add(self, a: Tensor, b: Tensor, a_scale: float = 1.0, b_scale: float = 1.0) -> Tensor:
        return (a if a_scale == 1.0 else a * a_scale) + (b if b_scale == 1.0 else b * b_scale)

    def scale(self, x: Tensor, factor: Any) -> Tensor:
        return x * factor if isinstance(factor, float) else x * factor.to(x.dtype)

    def weigh(self, x: Tensor, weights: Tensor) -> Tensor:
        return (x.view(*weights.shape, -1) * weights[..., None]).view(x.shape)

    def columns(self, x: Tensor, start: int, count: int) -> Tensor:
        return x[:, start : start + count]

    def append_shared(self, x: Tensor, shared: Tensor, heads: int) -> Tensor:
        return torch.cat([x.view(len(x), heads, -1), shared[:, None].expand(-1, heads, -1)], dim=2).flatten(1)

    def take(self, x: Tensor) -> Tensor:
        return x if self.step.rows is None else x[self.step.rows]

    def logits(self, x: Tensor, matrix: Matrix, bias: Tensor | None, output: Output) -> Tensor:
        logits = self.linear(x, matrix, bias).float() * output.scale
        return logits if output.softcap is None else output.softcap * torch.tanh(logits / output.softcap)

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        mixers = {index: spec.layers[index].mixer for index in spec.kv_layers}
        self.cache = Cache(mixers, pages, kv_dtype, self.device, groups)

    def free_cache(self) -> None:
        self.cache = None

    def copy_page(self, source: int, target: int, group: int) -> None:
        assert self.cache is not None
        self.cache.copy_page(source, target, group)

    sample = staticmethod(sample)


class HostWeights:
    """The loading half of an op set, for layers whose matrices stay in host memory; vectors are too small to matter."""

    def __init__(self, ops: TorchOps) -> None:
        self.ops, self.vector = ops, ops.vector

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Offloaded:
        return self._held(self.ops.encoded([raw], target))

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> Offloaded:
        return self._held(self.ops.encoded(raws, target, stacked=True))

    def owns(self, matrix: Offloaded) -> bool:
        return True

    def _held(self, matrix: Plain) -> Offloaded:
        """Pinned where a device reads host memory by itself, which it then does at full speed."""
        if self.ops.device.type == "cuda":
            matrix = matrix.pinned() if isinstance(matrix, Packed) else matrix.pin_memory()
        return Offloaded(matrix, self.ops.device)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu_squared": lambda x: torch.relu(x).square(),
    "sigmoid": torch.sigmoid,
}
