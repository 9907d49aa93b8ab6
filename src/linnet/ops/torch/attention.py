"""Attention over pages: of one layer, for the rows of one `Part`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from linnet.arch.spec import Attention
from linnet.ops.torch.step import Part

MOST_SCORES = 1 << 26
"""Scores that are made at a time, where they or masks are: 256 MB of float32, a few times over."""


def attend(q: Tensor, k: Tensor, v: Tensor, part: Part, attention: Attention, slopes: Tensor | None, sinks: Tensor | None) -> Tensor:
    """q: [sequences, queries, heads, head_dim]; k, v: [sequences, length, kv_heads, width]; slopes, sinks: float32 [heads] or None.
    Gives [sequences, queries, heads, value width].

    A weight of 0 times an infinity is NaN, and among the positions that a row does not see are other requests': what is not finite becomes
    0 in k and v, in place, and NaN in the rows that see it, which are no others' then.
    """
    broken = ~(k.sum((2, 3), dtype=torch.float32) + v.sum((2, 3), dtype=torch.float32)).isfinite()
    for x in (k, v):
        x.masked_fill_(broken[..., None, None], 0)
    out = _attend(q, k, v, part, attention, slopes, sinks)
    return out.masked_fill(_meets(broken, part, attention.window)[..., None, None], float("nan"))


def _meets(broken: Tensor, part: Part, window: int | None) -> Tensor:
    """Which rows see one of the positions, bool [sequences, length], that are broken: bool [sequences, queries]."""
    before = torch.nn.functional.pad(broken.cumsum(1), (1, 0))  # how many there are before each position
    until = before.gather(1, part.ends + 1)
    return until > (0 if window is None else before.gather(1, (part.positions + 1 - window).clamp(min=0)))


def _attend(q: Tensor, k: Tensor, v: Tensor, part: Part, attention: Attention, slopes: Tensor | None, sinks: Tensor | None) -> Tensor:
    """`attend`, of finite keys and values.

    PyTorch's fused kernels run wherever the family needs no more than a mask, and without one where each row sees all before it. Masks
    and scores are made of some queries at a time, so that their memory does not grow with a prompt's square.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    defined = attention.softcap is not None or sinks is not None
    windowless = attention.window is None or part.length <= attention.window
    if part.causal and windowless and slopes is None and not defined:
        return _causal(q, k, v, attention.scale).transpose(1, 2)
    if defined or q.is_cuda:  # where fused kernels take a mask, or heads in groups, not both
        k, v = _for_each_head(q, k, v)
    grouped = q.shape[1] != k.shape[1]
    count = q.shape[2]
    step = 1 if count == 1 else max(1, MOST_SCORES // (q.shape[0] * q.shape[1] * part.length))
    pieces = []
    for start in range(0, count, step):
        asked, positions, ends = q[:, :, start : start + step], part.positions[:, start : start + step], part.ends[:, start : start + step]
        seen, bias = _seen(positions, ends, part.length, attention), None if slopes is None else _alibi(positions, part.length, slopes)
        if defined:
            pieces.append(_by_definition(asked, k, v, seen, bias, attention, sinks))
        else:
            mask = seen if bias is None else bias.masked_fill(~seen, float("-inf")).to(q.dtype)
            pieces.append(scaled_dot_product_attention(asked, k, v, attn_mask=mask, scale=attention.scale, enable_gqa=grouped))
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)).transpose(1, 2)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Of the last rows of a sequence. q: [1, heads, queries, head_dim]."""
    queries, length = q.shape[2], k.shape[2]
    if q.is_cuda and not can_use_flash_attention(SDPAParams(q, k, v, None, 0.0, False, True)):
        k, v = _for_each_head(q, k, v)  # other fused kernels know no groups
    grouped = q.shape[1] != k.shape[1]
    if queries in (1, length):
        return scaled_dot_product_attention(q, k, v, is_causal=queries > 1, scale=scale, enable_gqa=grouped)
    # Not `is_causal`, which counts from the first position, nor a mask, with which flash attention does not run.
    return scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(queries, length), scale=scale, enable_gqa=grouped)


def _by_definition(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None, attention: Attention, sinks: Tensor | None
) -> Tensor:
    """Softmax in float32, with capped scores and with sinks, which no fused kernel knows: q [sequences, heads, queries, head_dim]."""
    scores = (q @ k.transpose(-1, -2)).float() * attention.scale
    if bias is not None:
        scores = scores + bias
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:  # a score that takes part and gives nothing
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1)[..., : k.shape[2]]
    return weights.to(v.dtype) @ v


def _for_each_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values once for each head of the queries."""
    group = q.shape[1] // k.shape[1]
    return (k, v) if group == 1 else (k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1))


def _seen(positions: Tensor, ends: Tensor, length: int, attention: Attention) -> Tensor:
    """What rows at `positions` see: bool [sequences, 1, queries, length]."""
    at = torch.arange(length, device=ends.device)
    seen = at <= ends[..., None]
    if attention.window is not None:
        seen = seen & (at > positions[..., None] - attention.window)
    return seen[:, None]


def _alibi(positions: Tensor, length: int, slopes: Tensor) -> Tensor:
    """What is added to scores: float32 [sequences, heads, queries, length]."""
    at = torch.arange(length, device=positions.device)
    return slopes[:, None, None] * (at - positions[:, None, :, None]).float()
