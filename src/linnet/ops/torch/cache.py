"""Pages of keys and values on a device, and what their types keep of a number; and of the states of recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from linnet.arch.spec import Attention, Mixer
from linnet.errors import InvalidRequestError, OutOfMemoryError
from linnet.ops.base import KV_DTYPES, PAGE_SIZE
from linnet.ops.torch.recurrent import States

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "q8_0": torch.int8}
assert set(DTYPES) == set(KV_DTYPES)

BLOCK = 32
"""Entries of a head that share a scale in q8_0."""


class Store:
    """Keys, or values, of one layer: [pages * PAGE_SIZE, kv_heads, width], a row for each place of the pool; for q8_0 integers, and
    scales float16 [places, kv_heads, blocks]."""

    def __init__(self, pages: int, heads: int, width: int, kv_dtype: str, device: torch.device) -> None:
        places = pages * PAGE_SIZE
        self.width = width
        self.dtype = DTYPES[kv_dtype]
        self.rows = torch.zeros(places, heads, width, dtype=self.dtype, device=device)
        self.scales: Tensor | None = None
        if kv_dtype == "q8_0":
            self.scales = torch.zeros(places, heads, -(-width // BLOCK), dtype=torch.float16, device=device)

    def write(self, places: Tensor, x: Tensor) -> None:
        """x: [n, kv_heads * width], to the places int64 [n]."""
        x = x.view(len(x), -1, self.width)
        if self.scales is None:
            if self.dtype == torch.float16:  # saturates: an infinity would turn masked zeros into NaN
                x = x.clamp(-65504, 65504)
            self.rows[places] = x.to(self.dtype)
            return
        blocks = self._blocks(x.float())
        scale = blocks.abs().amax(-1) / 127
        scaled = blocks * torch.where(scale == 0, 0.0, 1 / scale)[..., None]
        whole = scaled.abs().floor()
        codes = scaled.sign() * (whole + (2 * (scaled.abs() - whole)).floor())  # halves away from zero, as everywhere
        self.rows[places] = codes.flatten(-2)[..., : self.width].to(torch.int8)
        self.scales[places] = scale.half()

    def read(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """[*places.shape, kv_heads, width], as `dtype`."""
        rows = self.rows[places]
        if self.scales is None:
            return rows.to(dtype)
        values = self._blocks(rows.float()) * self.scales[places].float()[..., None]
        return values.flatten(-2)[..., : self.width].to(dtype)

    def copy(self, source: slice, target: slice) -> None:
        self.rows[target] = self.rows[source]
        if self.scales is not None:
            self.scales[target] = self.scales[source]

    def _blocks(self, x: Tensor) -> Tensor:
        """[..., blocks, BLOCK], the last block of a head filled up with zeros."""
        padded = torch.nn.functional.pad(x, (0, -self.width % BLOCK))
        return padded.view(*x.shape[:-1], -1, BLOCK)


class Cache:
    """The pools of one op set: keys and values, or states, of every layer that has its own, by its number. groups: of every layer of the
    model, whose page tables say where those of a layer lie; nothing where all are in the first."""

    def __init__(
        self, mixers: Mapping[int, Mixer], pages: Sequence[int], kv_dtype: str, device: torch.device, groups: Sequence[int] = ()
    ) -> None:
        if kv_dtype not in DTYPES:
            raise InvalidRequestError(f"kv_dtype {kv_dtype!r} is not one of {', '.join(KV_DTYPES)}")
        self.groups, self.pages = {index: groups[index] if groups else 0 for index in mixers}, list(pages)
        """The group of each layer; and of each group, the number of its pages, and the number of one more, which is nobody's."""
        self.keys: dict[int, Store] = {}
        self.values: dict[int, Store] = {}
        self.states: dict[int, States] = {}
        try:
            for layer, mixer in mixers.items():
                count = pages[self.groups[layer]] + 1
                if isinstance(mixer, Attention):
                    self.keys[layer] = Store(count, mixer.kv_heads, mixer.head_dim, kv_dtype, device)
                    self.values[layer] = Store(count, mixer.kv_heads, mixer.value_head_dim, kv_dtype, device)
                else:
                    self.states[layer] = States(count, mixer.state_size, device)
        except torch.OutOfMemoryError:
            raise OutOfMemoryError(
                f"device {device} has no room for {sum(pages)} pages of KV cache; lower context, max_batch or kv_memory"
            ) from None

    def copy_page(self, source: int, target: int, group: int) -> None:
        places = [slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in (source, target)]
        for layer in (layer for layer, own in self.groups.items() if own == group):
            if layer in self.states:
                self.states[layer].copy(source, target)
            else:
                self.keys[layer].copy(*places)
                self.values[layer].copy(*places)
