"""Triton's kernels: attention over pages for decoding, products with packed weights, and these expanded. Optional: without Triton,
PyTorch does all of it.

None has run on a GPU yet: they are tested with Triton's interpreter, on a processor, and compiled for GPUs that are not there. Sizes that
change from step to step are not specialized on (`do_not_specialize`): each value of another kind would stop a step for a compilation.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,index"
# ruff: noqa: N803 (capitals are constants of a kernel, as is usual in Triton)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from linnet.arch.spec import Attention
from linnet.ops.base import PAGE_SIZE
from linnet.ops.torch.cache import BLOCK, Store
from linnet.ops.torch.matrices import Packed
from linnet.ops.torch.recurrent_kernels import convolve_row as convolve_row
from linnet.ops.torch.recurrent_kernels import delta_rule_rows as delta_rule_rows

SPLIT = 256
"""Positions of a sequence that one program attends to, or a multiple: there are no more than MOST_SPLITS programs to a head."""

MOST_SPLITS = 64

TILE = 16 * 1024
"""Bytes of the keys, or of the values, that a program has at a time: with those that it fetches ahead, and what else it has, they fit the
memory that programs share on every GPU since Turing."""

FEW_ROWS = 64
"""Rows up to which `packed_product` reads weights once; with more, expanding them first is quicker."""

EXPANDED = 1024
"""Bytes of integers that a program expands."""


@triton.jit
def _rows(numbers, scales, row, at, mask, WIDTH: tl.constexpr, SCALED: tl.constexpr):
    """Rows of keys or values: as they are stored, or multiplied by their scales where SCALED numbers share one."""
    read = tl.load(numbers + row[:, None] * WIDTH + at[None, :], mask, 0.0)
    if SCALED:
        scales_of_row: tl.constexpr = (WIDTH + SCALED - 1) // SCALED
        read = read.to(tl.float32) * tl.load(scales + row[:, None] * scales_of_row + at[None, :] // SCALED, mask, 0.0)
    return read


@triton.jit
def _scores(asked, key, scale, softcap, slope, distance, seen, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr):
    scores = tl.dot(asked, tl.trans(key.to(asked.dtype)), input_precision="ieee") * scale
    if ALIBI:
        scores += slope[:, None] * distance.to(tl.float32)[None, :]
    if SOFTCAP:
        scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)  # tanh
    return tl.where(seen[None, :], scores, float("-inf"))


@triton.jit(do_not_specialize=["window", "width", "splits", "length"])
def _attend_split(
    q,  # [sequences, heads, HEAD]
    keys,  # [places, kv_heads, HEAD]
    key_scales,
    values,  # [places, kv_heads, VALUE]
    value_scales,
    tables,  # int64 [sequences, width]
    positions,
    ends,
    slopes,
    sums,  # float32 [sequences, heads, splits, VALUE]: values weighed by exp(score - largest)
    largest,  # float32 [sequences, heads, splits]
    totals,  # likewise: of the weights
    scale,
    softcap,
    window,
    width,
    splits,
    heads,
    kv_heads,
    length,  # positions of a split, a multiple of N
    HEAD: tl.constexpr,
    VALUE: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,  # the powers of two that hold them
    VALUE_BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # heads to a key and value head
    GROUP_BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SCALED: tl.constexpr,  # 0, or how many entries share a scale
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    ALIBI: tl.constexpr,
    N: tl.constexpr,
):
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position, end = tl.load(positions + sequence).to(tl.int32), tl.load(ends + sequence).to(tl.int32)
    group = tl.arange(0, GROUP_BLOCK)
    head = kv_head * GROUP + group
    at_head, at_value = tl.arange(0, HEAD_BLOCK), tl.arange(0, VALUE_BLOCK)
    asked = tl.load(
        q + (sequence * heads + head[:, None]) * HEAD + at_head[None, :], (group[:, None] < GROUP) & (at_head[None, :] < HEAD), 0.0
    )
    slope = tl.load(slopes + head, group < GROUP, 0.0) if ALIBI else 0.0
    most = tl.full([GROUP_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_BLOCK], tl.float32)
    result = tl.zeros([GROUP_BLOCK, VALUE_BLOCK], tl.float32)
    first = split * length
    last = tl.minimum(first + length, end + 1)
    if WINDOW:
        first = tl.maximum(first, (position - window + 1) // N * N)
    for start in range(first, last, N):
        at = start + tl.arange(0, N)
        seen = at <= end
        if WINDOW:
            seen &= at > position - window
        page = tl.load(tables + sequence * width + at // PAGE, seen, 0)
        row = (page * PAGE + at % PAGE) * kv_heads + kv_head
        key = _rows(keys, key_scales, row, at_head, seen[:, None] & (at_head[None, :] < HEAD), HEAD, SCALED)
        value = _rows(values, value_scales, row, at_value, seen[:, None] & (at_value[None, :] < VALUE), VALUE, SCALED)
        scores = _scores(asked, key, scale, softcap, slope, at - position, seen, SOFTCAP, ALIBI)
        more = tl.maximum(most, tl.max(scores, 1))
        kept = tl.where(more == float("-inf"), 0.0, more)  # nothing seen yet
        weights = tl.exp(scores - kept[:, None])
        fade = tl.exp(most - kept)
        total = total * fade + tl.sum(weights, 1)
        result = result * fade[:, None] + tl.dot(weights.to(asked.dtype), value.to(asked.dtype), input_precision="ieee")
        most = more
    out = (sequence * heads + head) * splits + split
    tl.store(sums + out[:, None] * VALUE + at_value[None, :], result, (group[:, None] < GROUP) & (at_value[None, :] < VALUE))
    tl.store(largest + out, most, group < GROUP)
    tl.store(totals + out, total, group < GROUP)


@triton.jit(do_not_specialize=["splits"])
def _merge_splits(
    sums,
    largest,
    totals,
    sinks,
    out,  # [sequences, heads, VALUE]
    splits,
    heads,
    VALUE: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    SINKS: tl.constexpr,
):
    row = tl.program_id(0)
    split, at = tl.arange(0, SPLITS_BLOCK), tl.arange(0, VALUE_BLOCK)
    most = tl.load(largest + row * splits + split, split < splits, float("-inf"))
    top = tl.max(most, 0)
    if SINKS:
        sink = tl.load(sinks + row % heads)
        top = tl.maximum(top, sink)
    shares = tl.exp(most - top)
    total = tl.sum(shares * tl.load(totals + row * splits + split, split < splits, 0.0), 0)
    if SINKS:
        total += tl.exp(sink - top)
    mask = (split[:, None] < splits) & (at[None, :] < VALUE)
    parts = tl.load(sums + (row * splits + split[:, None]) * VALUE + at[None, :], mask, 0.0)
    result = tl.sum(parts * shares[:, None], 0) / total
    tl.store(out + row * VALUE + at, result.to(out.dtype.element_ty), at < VALUE)


def attend_pages(
    q: Tensor,
    keys: Store,
    values: Store,
    tables: Tensor,
    positions: Tensor,
    ends: Tensor,
    attention: Attention,
    slopes: Tensor | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention of one row for each sequence, from the pages themselves.

    q: [sequences, heads, head_dim]; tables: int64 [sequences, width]; positions, ends: int64 [sequences], of each row and the last that it
    sees; slopes, sinks: float32 [heads] or None. Gives [sequences, heads, value_head_dim] of q's type.
    """
    sums, largest, totals = _attend_splits(q, keys, values, tables, positions, ends, attention, slopes)
    sequences, heads, splits, width = sums.shape
    out = torch.empty(sequences, heads, width, dtype=q.dtype, device=q.device)
    _merge_splits[(sequences * heads,)](
        sums,
        largest,
        totals,
        q if sinks is None else sinks,
        out,
        splits,
        heads,
        VALUE=width,
        VALUE_BLOCK=_power(width),
        SPLITS_BLOCK=MOST_SPLITS,
        SINKS=sinks is not None,
    )
    return out


def _attend_splits(
    q: Tensor,
    keys: Store,
    values: Store,
    tables: Tensor,
    positions: Tensor,
    ends: Tensor,
    attention: Attention,
    slopes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What each split of each sequence comes to: `sums`, `largest` and `totals` of the kernel."""
    sequences, width = tables.shape
    heads, group = attention.heads, attention.heads // attention.kv_heads
    length = SPLIT * -(-width * PAGE_SIZE // (SPLIT * MOST_SPLITS))
    splits = -(-width * PAGE_SIZE // length)
    widest = max(_power(keys.width), _power(values.width)) * max(q.element_size(), keys.rows.element_size())
    sums = torch.empty(sequences, heads, splits, values.width, dtype=torch.float32, device=q.device)
    largest, totals = torch.empty(2, sequences, heads, splits, dtype=torch.float32, device=q.device)
    _attend_split[(sequences, attention.kv_heads, splits)](
        *(q.contiguous(), keys.rows, q if keys.scales is None else keys.scales),
        *(values.rows, q if values.scales is None else values.scales),
        *(tables.contiguous(), positions.contiguous(), ends.contiguous(), q if slopes is None else slopes),
        *(sums, largest, totals),
        *(attention.scale, attention.softcap or 0.0, attention.window or 0),
        *(width, splits, heads, attention.kv_heads, length),
        HEAD=keys.width,
        VALUE=values.width,
        HEAD_BLOCK=max(16, _power(keys.width)),
        VALUE_BLOCK=max(16, _power(values.width)),
        GROUP=group,
        GROUP_BLOCK=max(16, _power(group)),
        PAGE=PAGE_SIZE,
        SCALED=0 if keys.scales is None else BLOCK,
        SOFTCAP=attention.softcap is not None,
        WINDOW=attention.window is not None,
        ALIBI=slopes is not None,
        N=max(16, min(64, TILE // widest)),
    )
    return sums, largest, totals


@triton.jit(do_not_specialize=["rows"])
def _packed_product(
    x,  # [rows, columns]
    codes,
    scales,
    minima,
    out,  # [rows, outs]
    rows,
    outs,
    columns,
    groups,
    GROUP: tl.constexpr,  # columns that share a scale
    LOW: tl.constexpr,
    MINIMA: tl.constexpr,
    ROWS: tl.constexpr,
    OUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Columns are taken two at a time where a byte holds two: the even ones from its low half, the odd ones from its high half."""
    each: tl.constexpr = 2 if LOW else 1
    stride = columns // each
    row, wide = tl.arange(0, ROWS), tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    result = tl.zeros([ROWS, OUTS], tl.float32)
    for start in range(0, stride, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        mask = (wide[:, None] < outs) & (at[None, :] < stride)
        place = wide[:, None] * groups + (at * each // GROUP)[None, :]
        scale = tl.load(scales + place, mask, 0.0).to(tl.float32)
        least = tl.load(minima + place, mask, 0.0).to(tl.float32) if MINIMA else 0.0
        code = tl.load(codes + wide[:, None].to(tl.int64) * stride + at[None, :], mask, 0)
        x_mask = (row[:, None] < rows) & (at[None, :] < stride)
        first = tl.load(x + row[:, None] * columns + at[None, :] * each, x_mask, 0.0)
        if LOW:
            second = tl.load(x + row[:, None] * columns + at[None, :] * 2 + 1, x_mask, 0.0)
            weights = ((code & 15).to(tl.float32) * scale + least).to(first.dtype)
            others = ((code >> 4).to(tl.float32) * scale + least).to(first.dtype)
            result += tl.dot(second, tl.trans(others), input_precision="ieee")
        else:
            weights = (code.to(tl.float32) * scale + least).to(first.dtype)
        result += tl.dot(first, tl.trans(weights), input_precision="ieee")
    mask = (row[:, None] < rows) & (wide[None, :] < outs)
    tl.store(out + row[:, None] * outs + wide[None, :], result.to(out.dtype.element_ty), mask)


def packed_product(x: Tensor, matrix: Packed) -> Tensor:
    """x [n, in] @ matrix.T for up to FEW_ROWS rows: [n, out] of x's type, summed in float32."""
    (outs, columns), (rows, groups) = matrix.shape, (len(x), matrix.scales.shape[-1])
    out = torch.empty(rows, outs, dtype=x.dtype, device=x.device)
    tall = 16 if rows <= 16 else 32 if rows <= 32 else FEW_ROWS
    _packed_product[(-(-outs // tall),)](
        x.contiguous(),
        matrix.codes,
        matrix.scales,
        x if matrix.minima is None else matrix.minima,
        out,
        rows,
        outs,
        columns,
        groups,
        GROUP=columns // groups,
        LOW=matrix.low,
        MINIMA=matrix.minima is not None,
        ROWS=tall,
        OUTS=tall,  # few rows: many small programs, which wait for memory together
        COLUMNS=TILE // 2 // (tall * x.element_size()),
    )
    return out


@triton.jit(do_not_specialize=["count"])
def _expand(codes, scales, minima, out, count, GROUP: tl.constexpr, LOW: tl.constexpr, MINIMA: tl.constexpr, BLOCK: tl.constexpr):
    """The values of `count` bytes of integers, one after another as the integers are; count: a multiple of BLOCK or not."""
    each: tl.constexpr = 2 if LOW else 1
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    code = tl.load(codes + at, mask, 0)
    place = at * each // GROUP
    scale = tl.load(scales + place, mask, 0.0).to(tl.float32)
    least = tl.load(minima + place, mask, 0.0).to(tl.float32) if MINIMA else 0.0
    if LOW:  # the even columns, and the odd ones
        values = tl.interleave((code & 15).to(tl.float32) * scale + least, (code >> 4).to(tl.float32) * scale + least)
    else:
        values = code.to(tl.float32) * scale + least
    into = tl.program_id(0).to(tl.int64) * BLOCK * each + tl.arange(0, BLOCK * each)
    tl.store(out + into, values.to(out.dtype.element_ty), into < count.to(tl.int64) * each)


def expanded(matrix: Packed, dtype: torch.dtype) -> Tensor:
    """The values of a matrix, or of a stack of them: as `Packed.values` has them."""
    out = torch.empty(matrix.shape, dtype=dtype, device=matrix.codes.device)
    count = matrix.codes.numel()
    _expand[(-(-count // EXPANDED),)](
        matrix.codes.contiguous(),
        matrix.scales.contiguous(),
        out if matrix.minima is None else matrix.minima.contiguous(),
        out,
        count,
        GROUP=matrix.shape[-1] // matrix.scales.shape[-1],
        LOW=matrix.low,
        MINIMA=matrix.minima is not None,
        BLOCK=EXPANDED,
    )
    return out


def _power(count: int) -> int:
    """The next power of two, of a number that is the same at every step."""
    return 1 << (count - 1).bit_length()
