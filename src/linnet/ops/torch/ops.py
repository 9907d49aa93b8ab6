"""`TorchOps`: the `Ops` protocol on tensors. Everything here is asked of PyTorch; nothing knows which device it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from linnet.arch.spec import Activation, Attention, ModelSpec, Moe, Norm, Output, Rope
from linnet.errors import OutOfMemoryError
from linnet.load.dequantize import dequantize
from linnet.load.encode import encoded
from linnet.ops.base import Batch, Step
from linnet.ops.sampling import sample
from linnet.ops.torch.attention import attend
from linnet.ops.torch.cache import Cache
from linnet.ops.torch.experts import route
from linnet.ops.torch.shards import Partial
from linnet.ops.torch.step import DeviceBatch
from linnet.tensors import BF16, F16, F32, RawTensor, TensorType
from linnet.weights import Linear, MlpWeights, NormWeights

logger = logging.getLogger("linnet.ops")

DTYPES = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}


class TorchOps:
    """`Ops` in PyTorch. Matrices and X are tensors [rows, width] of `dtype`, vectors are float32.

    device: where everything lies and is computed. Norms, rotation, routing and the logits are float32 whatever `dtype` is.
    Quantized weights are computed with in `dtype`, the values that their type holds.
    """

    name = "torch"

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.cache: Cache | None = None
        self.step: DeviceBatch
        self._slopes: dict[tuple[float, ...], Tensor] = {}
        self._told: set[str] = set()

    # ---- weights
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> Tensor:
        return self._on_device(self._values(raw, target), raw.name)

    def stack(self, raws: Sequence[RawTensor], target: TensorType | None = None) -> Tensor:
        return self._on_device(torch.stack([self._values(raw, target) for raw in raws]), raws[0].name)

    def vector(self, raw: RawTensor) -> Tensor:
        return torch.from_numpy(dequantize(raw)).to(self.device)

    def owns(self, matrix: Tensor) -> bool:
        return True

    def _values(self, raw: RawTensor, target: TensorType | None) -> Tensor:
        """The tensor's values in `dtype`, on the processor, in memory of their own."""
        if target is not None and target != raw.type:
            raw = encoded(raw, target)
        if raw.type in DTYPES:
            stored = torch.from_numpy(raw.data.copy()).view(DTYPES[raw.type]).view(raw.shape)
            return stored.to(self.dtype)
        if raw.type.name not in self._told:
            self._told.add(raw.type.name)
            logger.warning("%s weights are computed with as %s: they take more memory than in their file", raw.type.name, self.dtype)
        return torch.from_numpy(dequantize(raw)).to(self.dtype)

    def _on_device(self, values: Tensor, name: str) -> Tensor:
        try:
            return values.to(self.device)
        except torch.OutOfMemoryError:
            raise OutOfMemoryError(f"device {self.device} has no room for tensor {name!r} {tuple(values.shape)} in {self.dtype}") from None

    # ---- running a forward
    def stepper(self, spec: ModelSpec, build: Callable[[], Tensor]) -> Step:
        def step(batch: Batch) -> NDArray[np.float32]:
            try:
                with torch.inference_mode():
                    self.step = DeviceBatch(batch, self.device, spec.bidirectional_prompt)
                    result: NDArray[np.float32] = build().float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                rows, wanted = len(batch.tokens), len(batch.rows)
                reason = str(error).splitlines()[0]
                raise OutOfMemoryError(
                    f"device {self.device} has no room for a step of {rows} tokens with logits of {wanted} ({reason}); "
                    "lower prefill_chunk or max_batch"
                ) from None
            return result

        return step

    # ---- ops of a forward
    def embed(self, table: Tensor, source: Literal["tokens", "previous", "positions"], offset: int = 0) -> Tensor:
        if source == "previous":
            previous = self.step.previous
            return torch.where(previous[:, None] >= 0, table[previous.clamp(min=0)], 0)
        return table[self.step.tokens if source == "tokens" else self.step.positions + offset]

    def norm(self, x: Tensor, weights: NormWeights, norm: Norm, groups: int = 1) -> Tensor:
        parts = x.view(len(x), groups, -1).float()
        if norm.kind == "layer":
            parts = functional.layer_norm(parts, parts.shape[-1:], eps=norm.epsilon)
        else:
            parts = functional.rms_norm(parts, parts.shape[-1:], eps=norm.epsilon)
        if weights.weight is not None:
            parts = parts * weights.weight.view(-1, parts.shape[-1])  # one for all parts, or one each
        if weights.bias is not None:
            parts = parts + weights.bias.view(-1, parts.shape[-1])
        return parts.to(x.dtype).view(x.shape)

    def linear(self, x: Tensor, matrix: Tensor | Partial, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        if not isinstance(matrix, Partial):
            return functional.linear(x, matrix, bias)
        x = self.summed(functional.linear(x, matrix.values))
        return x if bias is None else x + bias

    def summed(self, terms: Tensor) -> Tensor:
        """The sum of what every device has of `terms`; there is one here."""
        return terms

    def rotate(self, x: Tensor, rope: Rope, head_dim: int) -> Tensor:
        cos, sin = self.step.angles(rope)
        heads = x.view(len(x), -1, head_dim)
        source = heads[..., rope.start : rope.start + rope.dim].float()
        half = rope.dim // 2
        first, second = (source[..., 0::2], source[..., 1::2]) if rope.interleaved else (source[..., :half], source[..., half:])
        turned = first * cos - second * sin, second * cos + first * sin
        rotated = torch.stack(turned, dim=-1).flatten(-2) if rope.interleaved else torch.cat(turned, dim=-1)
        out = heads.clone()
        out[..., rope.start : rope.start + rope.dim] = rotated.to(x.dtype)
        return out.view(x.shape)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, attention: Attention, sinks: Tensor | None) -> Tensor:
        assert self.cache is not None
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.write(self.step.places, k)
        values.write(self.step.places, v)
        out = q.new_empty(len(q), attention.output_width)
        for part in self.step.parts:
            queries = q[part.rows].view(*part.positions.shape, attention.heads, attention.head_dim)
            k, v = keys.read(part.places, q.dtype), values.read(part.places, q.dtype)
            result = attend(queries, k, v, part, attention, self._alibi(attention), sinks)
            out[part.rows] = result.reshape(-1, attention.output_width)
        return out

    def _alibi(self, attention: Attention) -> Tensor | None:
        if attention.alibi is None:
            return None
        if attention.alibi not in self._slopes:
            self._slopes[attention.alibi] = torch.tensor(attention.alibi, dtype=torch.float32, device=self.device)
        return self._slopes[attention.alibi]

    def experts(self, x: Tensor, logits: Tensor, weights: MlpWeights, moe: Moe, correction: Tensor | None) -> Tensor:
        chosen, shares = route(logits.float(), moe.router, correction)
        flat = chosen.flatten()  # of row r: entries r * active and on
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=moe.experts).tolist()
        out = x.new_empty(len(flat), x.shape[1])
        for expert, rows in enumerate(torch.split(order, counts)):
            if len(rows):
                out[rows] = self._expert(x[rows // moe.router.active], weights, moe, expert)
        out = out.view(*chosen.shape, -1)
        if isinstance(weights.down.matrix, Partial):
            out = self.summed(out)
        if weights.down.bias is not None:
            out = out + weights.down.bias[chosen].to(x.dtype)
        return (out.float() * shares[..., None]).sum(1).to(x.dtype)

    def _expert(self, x: Tensor, weights: MlpWeights, moe: Moe, expert: int) -> Tensor:
        """Without the last bias, and of a `Partial` block the term that this device has."""

        def project(x: Tensor, linear: Linear) -> Tensor:
            return self.linear(x, linear.matrix[expert], None if linear.bias is None else linear.bias[expert])

        if moe.expert.gated:
            assert weights.gate is not None
            x = self.gate(project(x, weights.gate), project(x, weights.up), moe.expert.activation)
        else:
            x = self.activate(project(x, weights.up), moe.expert.activation)
        down = weights.down.matrix
        return functional.linear(x, (down.values if isinstance(down, Partial) else down)[expert])

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
        return x[self.step.rows]

    def logits(self, x: Tensor, matrix: Tensor, bias: Tensor | None, output: Output) -> Tensor:
        logits = self.linear(x, matrix, bias).float() * output.scale
        return logits if output.softcap is None else output.softcap * torch.tanh(logits / output.softcap)

    # ---- KV pages and sampling
    def allocate_cache(self, spec: ModelSpec, pages: int, kv_dtype: str) -> None:
        self.cache = Cache([layer.attention for layer in spec.layers], pages, kv_dtype, self.device)

    def free_cache(self) -> None:
        self.cache = None

    def copy_page(self, source: int, target: int) -> None:
        assert self.cache is not None
        self.cache.copy_page(source, target)

    sample = staticmethod(sample)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu_squared": lambda x: torch.relu(x).square(),
    "sigmoid": torch.sigmoid,
}
