"""Logits that stay on the device, and the draw of tokens from them: what `ops/sampling.py` defines, for many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnet.ops.base import Batch, DeviceLogits, DeviceStep, Draw

WITHOUT_FLOAT64 = ("mps",)
"""Devices that do not compute with what the draw is defined in: their logits are drawn from on the host."""


class TorchStep(DeviceStep):
    """compute: a forward, giving float32 [rows, width]."""

    def __init__(self, compute: Callable[[Batch], Tensor]) -> None:
        self.compute = compute

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        return TorchLogits(self.compute(batch)).host()

    @torch.inference_mode()
    def on_device(self, batch: Batch) -> TorchLogits:
        values = self.compute(batch)
        return TorchLogits(values.cpu() if values.device.type in WITHOUT_FLOAT64 else values)


class TorchLogits(DeviceLogits):
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> TorchLogits:
        return TorchLogits(self.values[rows])

    def host(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.values.cpu().numpy()
        return values

    @torch.inference_mode()
    def draw(self, rows: Sequence[int], draws: Sequence[Draw]) -> list[int]:
        logits = self.values[torch.tensor(rows, device=self.values.device)]  # a copy
        if any(draw.adjusts for draw in draws):
            _adjust(logits, draws)
        tokens = logits.argmax(1)
        sampled = [row for row, draw in enumerate(draws) if draw.temperature > 0]
        if sampled:
            at = torch.tensor(sampled, device=logits.device)
            tokens[at] = _sampled(logits[at], [draws[row] for row in sampled])
        drawn: list[int] = torch.where(logits.amax(1).isfinite(), tokens, -1).tolist()
        return drawn


def _adjust(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Bias and penalties, in place; the arithmetic is that of `engine/sampling.py`, in float32."""
    at, bias = _entries(logits, [draw.biased for draw in draws], [[draw.bias] for draw in draws])
    logits[at] += bias[0]
    columns = [[d.counts, *(np.full(len(d.seen), p) for p in (d.repetition, d.presence, d.frequency))] for d in draws]
    at, (counts, repetition, presence, frequency) = _entries(logits, [draw.seen for draw in draws], columns)
    values = logits[at]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= presence * (counts > 0)
    values -= frequency * counts
    logits[at] = values
    at, _ = _entries(logits, [draw.forbidden for draw in draws], [[] for _ in draws])
    logits[at] = float("-inf")


def _entries(
    logits: Tensor, tokens: Sequence[NDArray[np.int64]], columns: Sequence[Sequence[NDArray[np.floating]]]
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Where the tokens of each row stand in `logits`, and what there is to say of each, as float32 [entries]."""
    rows = np.repeat(np.arange(len(tokens)), [len(own) for own in tokens])
    at = tuple(torch.from_numpy(x).to(logits.device) for x in (rows, np.concatenate(tokens)))
    said = [np.concatenate(column).astype(np.float32) for column in zip(*columns, strict=True)]
    return at, [torch.from_numpy(x).to(logits.device) for x in said]  # type: ignore[return-value]


def _sampled(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """int64 [rows], by `ops/sampling.py` row by row; a filter gives what it drops no weight, in place of shortening a list."""
    asked = np.array([(d.temperature, d.top_k or logits.shape[1], d.top_p, d.min_p, d.uniform) for d in draws], np.float64)
    temperature, top_k, top_p, min_p, uniform = torch.from_numpy(asked).to(logits.device).T[:, :, None]
    kept, order = logits.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    weights = ((kept - kept[:, :1].double()) / temperature).exp()
    weights = weights * (rank < top_k)
    reached = weights.cumsum(1)
    inside = (reached < top_p * reached[:, -1:]).sum(1, keepdim=True)
    weights = weights * ((rank <= inside) | (top_p >= 1)) * (weights >= min_p)
    reached = weights.cumsum(1)
    drawn = (reached <= uniform * reached[:, -1:]).sum(1, keepdim=True)
    last = weights.count_nonzero(1)[:, None] - 1
    return order.gather(1, torch.minimum(drawn, last))[:, 0]
