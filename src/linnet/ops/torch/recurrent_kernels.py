"""Triton's kernels for recurrent layers: the gated delta rule of any number of rows, and convolutions of one row for each sequence.

Each program is a single warp and has its part of a state to itself: it may write it to the page that it read it from.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,index"
# ruff: noqa: N803 (capitals are constants of a kernel, as is usual in Triton)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from linnet.arch.spec import GatedDeltaNet
from linnet.ops.torch.recurrent import States, Stretch

STATE_COLUMNS = 8
"""Columns of a head's state that a program has in its registers: of each row 32 bytes, what memory gives at a time."""

CONVOLVED = 128
"""Columns that a program convolves."""


@triton.jit
def _one_row(
    state, row, head, q, k, v, rate, strength, decay, out, at_key, at_value, heads, key_heads, KEY: tl.constexpr, VALUE: tl.constexpr
):
    """The state after a row, whose answer is written; see `GatedDeltaNet`."""
    key_at = (row * key_heads + head // (heads // key_heads)) * KEY + at_key
    value_at = (row * heads + head) * VALUE + at_value
    key = tl.load(k + key_at, at_key < KEY, 0.0).to(tl.float32)
    query = tl.load(q + key_at, at_key < KEY, 0.0).to(tl.float32)
    value = tl.load(v + value_at, at_value < VALUE, 0.0).to(tl.float32)
    x = tl.load(rate + row * heads + head).to(tl.float32)
    softplus = tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))
    state = state * tl.exp(-decay * softplus)
    change = tl.load(strength + row * heads + head).to(tl.float32) * (value - tl.sum(key[:, None] * state, 0))
    state = state + key[:, None] * change[None, :]
    tl.store(out + value_at, tl.sum(query[:, None] * state, 0).to(out.dtype.element_ty), at_value < VALUE)
    return state


@triton.jit(do_not_specialize=["count", "between"])
def _delta_rule(
    q,  # [sequences * count, key_heads, KEY]
    k,
    v,  # [sequences * count, heads, VALUE]
    rate,  # [sequences * count, heads]
    strength,
    decays,  # float32 [heads]
    states,  # float32 [pages, size]
    sources,  # int64 [sequences]: pages
    begins,  # int8 [sequences]
    middles,  # int64 [sequences]: pages of the states before row `between`, if that is not 0
    targets,
    out,  # [sequences * count, heads, VALUE]
    count,
    between,
    size,
    start,  # of S in a state
    heads,
    key_heads,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sequence, head = tl.program_id(0), tl.program_id(1)
    at_key, at_value = tl.arange(0, KEY_BLOCK), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (at_key[:, None] < KEY) & (at_value[None, :] < VALUE)
    place = start + (head * KEY + at_key[:, None]) * VALUE + at_value[None, :]
    decay, first = tl.load(decays + head), sequence * count
    known = tl.where(tl.load(begins + sequence) != 0, 0, KEY)  # rows of a state that there is
    state = tl.load(states + tl.load(sources + sequence) * size + place, mask & (at_key[:, None] < known), 0.0)
    for row in range(first, first + between):
        state = _one_row(state, row, head, q, k, v, rate, strength, decay, out, at_key, at_value, heads, key_heads, KEY, VALUE)
    if between > 0:
        tl.store(states + tl.load(middles + sequence) * size + place, state, mask)
    for row in range(first + between, first + count):
        state = _one_row(state, row, head, q, k, v, rate, strength, decay, out, at_key, at_value, heads, key_heads, KEY, VALUE)
    tl.store(states + tl.load(targets + sequence) * size + place, state, mask)


def delta_rule_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    strength: Tensor,
    decay: Tensor,
    states: States,
    stretch: Stretch,
    mixer: GatedDeltaNet,
) -> Tensor:
    """`Ops.delta_rule` of the rows of a stretch, which are all that is given: [rows, value_width] of v's type."""
    pool, sequences, heads = states.rows, len(stretch.sources), mixer.value_heads
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    *middle, (_, targets) = stretch.saved
    between, middles = (middle[0][0] + 1, middle[0][1]) if middle else (0, targets)
    _delta_rule[(sequences, heads, -(-mixer.value_dim // STATE_COLUMNS))](
        *(x.contiguous() for x in (q, k, v, rate, strength)),
        *(decay, pool, stretch.sources, stretch.begins.view(torch.int8), middles, targets, out),
        *(len(v) // sequences, between),
        *(pool.shape[1], pool.shape[1] - heads * mixer.key_dim * mixer.value_dim),
        *(heads, mixer.key_heads),
        KEY=mixer.key_dim,
        VALUE=mixer.value_dim,
        KEY_BLOCK=1 << (mixer.key_dim - 1).bit_length(),
        COLUMNS=STATE_COLUMNS,
        num_warps=1,
    )
    return out


@triton.jit
def _convolve_row(
    x,  # [sequences, width]
    weights,  # float32 [width, TAPS]
    biases,
    states,  # float32 [pages, size]
    sources,  # int64 [sequences]: pages
    begins,  # int8 [sequences]
    targets,
    out,  # [sequences, width]
    width,
    size,
    start,  # of these columns' inputs in a state
    TAPS: tl.constexpr,
    BIAS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sequence, at = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = at < width
    before = at < tl.where(tl.load(begins + sequence) != 0, 0, width)
    source = states + tl.load(sources + sequence) * size + start
    target = states + tl.load(targets + sequence) * size + start
    result = tl.load(biases + at, mask, 0.0) if BIAS else tl.zeros([COLUMNS], tl.float32)
    for tap in tl.static_range(TAPS):
        if tap == TAPS - 1:
            given = tl.load(x + sequence * width + at, mask, 0.0).to(tl.float32)
        else:
            given = tl.load(source + tap * width + at, before, 0.0)
        result += given * tl.load(weights + at * TAPS + tap, mask, 0.0)
        if tap > 0:
            tl.store(target + (tap - 1) * width + at, given, mask)
    tl.store(out + sequence * width + at, result.to(out.dtype.element_ty), mask)


def convolve_row(x: Tensor, weight: Tensor, bias: Tensor | None, states: States, stretch: Stretch, start: int) -> Tensor:
    """`Ops.convolve` of one row x [sequences, width] for each sequence; weight: float32 [width, taps]. Gives the same shape and type."""
    (sequences, width), pool = x.shape, states.rows
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _convolve_row[(sequences, -(-width // CONVOLVED))](
        *(x.contiguous(), weight, weight if bias is None else bias),
        *(pool, stretch.sources, stretch.begins.view(torch.int8), stretch.saved[0][1], out),
        *(width, pool.shape[1], start),
        TAPS=weight.shape[1],
        BIAS=bias is not None,
        COLUMNS=CONVOLVED,
        num_warps=1,
    )
    return out
