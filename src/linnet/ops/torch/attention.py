"""Attention over pages: of one layer, for the rows of one `Part`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from linnet.arch.spec import Attention
from linnet.ops.torch.step import Part


def attend(q: Tensor, k: Tensor, v: Tensor, part: Part, attention: Attention, slopes: Tensor | None, sinks: Tensor | None) -> Tensor:
    """q: [sequences, queries, heads, head_dim]; k, v: [sequences, length, kv_heads, width]; slopes, sinks: float32 [heads] or None.
    Gives [sequences, queries, heads, value width]. PyTorch's fused kernels run wherever the family needs no more than a mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    plain = attention.window is None and slopes is None
    if attention.softcap is not None or sinks is not None:
        return _by_definition(q, k, v, part, attention, slopes, sinks).transpose(1, 2)
    grouped = attention.heads != attention.kv_heads
    if plain and part.causal:
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scale, enable_gqa=grouped)
    else:
        mask = ~_hidden(part, attention)
        if slopes is not None:
            mask = _alibi(part, slopes).masked_fill(~mask, float("-inf")).to(q.dtype)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scale, enable_gqa=grouped)
    return out.transpose(1, 2)


def _by_definition(
    q: Tensor, k: Tensor, v: Tensor, part: Part, attention: Attention, slopes: Tensor | None, sinks: Tensor | None
) -> Tensor:
    """Softmax in float32, with capped scores and with sinks, which no fused kernel knows: q [sequences, heads, queries, head_dim]."""
    groups = attention.heads // attention.kv_heads
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)).float() * attention.scale
    if slopes is not None:
        scores = scores + _alibi(part, slopes)
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    scores = scores.masked_fill(_hidden(part, attention), float("-inf"))
    if sinks is not None:  # a score that takes part and gives nothing
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1)[..., : k.shape[2]]
    return weights.to(v.dtype) @ v


def _hidden(part: Part, attention: Attention) -> Tensor:
    """What a row does not see: bool [sequences, 1, queries, length]."""
    at = torch.arange(part.length, device=part.tables.device)
    hidden = at > part.ends[..., None]
    if attention.window is not None:
        hidden = hidden | (at <= part.positions[..., None] - attention.window)
    return hidden[:, None]


def _alibi(part: Part, slopes: Tensor) -> Tensor:
    """Float32 [sequences, heads, queries, length]."""
    at = torch.arange(part.length, device=part.tables.device)
    return slopes[:, None, None] * (at - part.positions[:, None, :, None]).float()
