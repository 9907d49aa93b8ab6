"""Every kernel of every instruction set that this processor has, against float64 on the same quantized activations."""

from __future__ import annotations

from functools import cache, partial
from itertools import product as every
from typing import Any, get_args

import gguf
import numpy as np
import pytest
from eager import eager
from numpy.typing import NDArray

from linnet import _core
from linnet.arch.spec import Activation, Norm
from linnet.ops.native import NativeOps
from linnet.ops.reference import ReferenceOps
from linnet.tensors import (
    BF16,
    BLOCKS,
    F16,
    F32,
    FLOATS,
    MXFP4,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    SUPER_BLOCKS,
    RawTensor,
    TensorType,
)
from linnet.weights import NormWeights

ISAS = _core.available_isas()
BLOCK_TYPES = [*BLOCKS, *SUPER_BLOCKS]
FLOAT_TYPES = list(FLOATS)
THREADS = 2
SCALES: dict[TensorType, list[int]] = {t: [0] for t in BLOCK_TYPES} | {t: [0, 2] for t in (Q4_1, Q5_1, Q4_K, Q5_K)}
SCALES |= {Q2_K: [80, 82], Q3_K: [108], Q6_K: [208], MXFP4: []}
"""Where the float16 scales stand in a raw block."""


@cache
def ops_of(isa: str, threads: int = THREADS) -> NativeOps:
    return NativeOps(threads, isa)


def linear(isa: str, x: NDArray[np.float32], raw: RawTensor, bias: NDArray[np.float32] | None = None, threads: int = THREADS) -> Any:
    ops = ops_of(isa, threads)
    vector = None if bias is None else _core.Vector(bias)
    return eager(ops, lambda x: ops.linear(x, ops.matrix(raw), vector), x)


def random_raw(type: TensorType, rows: int, columns: int, seed: int) -> RawTensor:
    """A valid tensor of any type. Block types get random bytes with scales that are finite and of either sign."""
    random = np.random.default_rng(seed)
    if type.block == 1:
        return RawTensor(
            "w",
            (rows, columns),
            type,
            gguf.quants.quantize(random.normal(size=(rows, columns)).astype(np.float32), quant_type(type)).view(np.uint8).ravel(),
        )
    blocks = random.integers(0, 256, (rows * columns // type.block, type.block_bytes), dtype=np.uint8)
    for at in SCALES[type]:
        blocks[:, at : at + 2] = random.normal(0, 0.05, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    if type == MXFP4:
        blocks[:, 0] = random.integers(115, 130, len(blocks))
    return RawTensor("w", (rows, columns), type, blocks.ravel())


def quant_type(type: TensorType) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(type.gguf_id)


def dequantized(raw: RawTensor) -> NDArray[np.float32]:
    return gguf.quants.dequantize(raw.data, quant_type(raw.type)).reshape(raw.shape)


def product(raw: RawTensor, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """x @ raw.T in float64, of activations rounded as llama.cpp does: a min multiplies a sum that is rounded by itself."""
    activations = rounded_activations(x, raw.type)
    if raw.type not in (Q4_1, Q5_1):
        return activations @ dequantized(raw).astype(np.float64).T
    blocks = raw.data.reshape(-1, raw.type.block_bytes).copy()
    mins = blocks[:, 2:4].copy().view(np.float16).reshape(raw.shape[0], -1).astype(np.float64)  # [rows, blocks]
    blocks[:, 2:4] = 0
    parts = x.reshape(len(x), -1, 32)
    scale = np.abs(parts).max(axis=2) / np.float32(127)
    stored = scale.astype(np.float16).astype(np.float64)[..., None]
    levels = np.divide(activations.reshape(parts.shape), stored, out=np.zeros(parts.shape), where=stored > 0)
    sums = (scale * np.rint(levels).sum(axis=2).astype(np.float32)).astype(np.float16).astype(np.float64)  # [tokens, blocks]
    without = RawTensor(raw.name, raw.shape, raw.type, blocks.ravel())
    return activations @ dequantized(without).astype(np.float64).T + sums @ mins.T


def magnitudes(raw: RawTensor) -> NDArray[np.float64]:
    """The largest that any value of each value's block could be: what the rounding of a block's sum is relative to."""
    largest = np.abs(dequantized(raw)).astype(np.float64)
    if raw.type.block == 1:
        return largest
    for byte in (0x00, 0xFF):
        largest = np.maximum(largest, np.abs(dequantized(with_body(raw, byte))))
    parts = largest.reshape(-1, raw.type.block)
    return np.broadcast_to(parts.max(axis=1, keepdims=True), parts.shape).reshape(raw.shape)


def with_body(raw: RawTensor, byte: int) -> RawTensor:
    """The tensor with every byte but its scales replaced."""
    blocks = raw.data.reshape(-1, raw.type.block_bytes).copy()
    kept = {at + i for at in SCALES[raw.type] for i in (0, 1)} | ({0} if raw.type == MXFP4 else set())
    blocks[:, [i for i in range(raw.type.block_bytes) if i not in kept]] = byte
    return RawTensor(raw.name, raw.shape, raw.type, blocks.ravel())


def rounded_activations(x: NDArray[np.float32], type: TensorType) -> NDArray[np.float64]:
    """x after the rounding that llama.cpp gives it for this weight type, in float64; computed in float32 as it does."""
    if type.block == 1:
        return x.astype(np.float64)
    parts = x.reshape(-1, type.block)
    if type.block == 32:  # Q8_0: scale max / 127 stored as float16
        largest = np.abs(parts).max(axis=1, keepdims=True)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        scale = (largest / np.float32(127)).astype(np.float16).astype(np.float64)
    else:  # Q8_K: scale so that the value of largest magnitude becomes -127
        extreme = np.take_along_axis(parts, np.abs(parts).argmax(axis=1, keepdims=True), axis=1)
        inverse = np.divide(np.float32(-127), extreme, out=np.zeros_like(extreme), where=extreme != 0)
        scale = np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=inverse != 0).astype(np.float64)
    levels = np.minimum(np.rint(parts * inverse), 127)
    return (levels * scale).reshape(x.shape)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", BLOCK_TYPES + FLOAT_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 13])
def test_linear_matches_float64(isa: str, type: TensorType, tokens: int) -> None:
    rows, columns = 45, 3 * type.block if type.block > 1 else 93  # a partial group of rows, a partial vector of columns
    raw = random_raw(type, rows, columns, seed=tokens)
    x = np.random.default_rng(tokens).normal(size=(tokens, columns)).astype(np.float32)
    x[0, : columns // 3] = 0  # a block of zeros has no scale
    y = linear(isa, x, raw)
    magnitude = np.abs(rounded_activations(x, type)) @ magnitudes(raw).T
    assert np.max(np.abs(y - product(raw, x)) / np.maximum(magnitude, 1e-30)) < 1e-6


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", BLOCK_TYPES + FLOAT_TYPES, ids=lambda t: t.name)
def test_a_row_has_the_same_bits_in_every_batch_and_thread_count(isa: str, type: TensorType) -> None:
    columns = 2 * type.block if type.block > 1 else 77
    raw = random_raw(type, 70, columns, seed=1)
    x = np.random.default_rng(2).normal(size=(300, columns)).astype(np.float32)
    bias = np.random.default_rng(3).normal(size=70).astype(np.float32)
    whole = linear(isa, x, raw, bias, 3)
    for start, stop in [(0, 1), (5, 12), (100, 300)]:
        np.testing.assert_array_equal(linear(isa, x[start:stop], raw, bias, 1), whole[start:stop])


@pytest.mark.parametrize("type", BLOCK_TYPES + FLOAT_TYPES, ids=lambda t: t.name)
def test_weights_that_stay_where_the_file_maps_them_give_the_same_bits(type: TensorType) -> None:
    columns = 2 * type.block if type.block > 1 else 77
    raw = random_raw(type, 70, columns, seed=1)
    x = np.random.default_rng(2).normal(size=(9, columns)).astype(np.float32)
    mapped = NativeOps(2, pack=False)
    matrix = mapped.matrix(raw)
    assert not mapped.owns(matrix)
    np.testing.assert_array_equal(eager(mapped, lambda x: mapped.linear(x, matrix, None), x), linear("", x, raw))
    np.testing.assert_array_equal(_core.matrix_floats(matrix), dequantized(raw))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", BLOCK_TYPES, ids=lambda t: t.name)
def test_activations_that_are_not_finite_do_not_vanish_in_rounding(isa: str, type: TensorType) -> None:
    """Integers hold no NaN: were it lost, a broken model would answer nonsense in place of an error."""
    raw = random_raw(type, 16, 2 * type.block, seed=8)
    columns = raw.shape[1]
    for value in (np.nan, np.inf, -np.inf):
        for column in (0, 7, columns // 2 + 16, columns - 1):
            x = np.ones((5, columns), np.float32)
            x[2, column] = value
            finite = np.isfinite(linear(isa, x, raw))
            assert not finite[2].any()
            assert finite[[0, 1, 3, 4]].all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", BLOCK_TYPES, ids=lambda t: t.name)
def test_extreme_integers_do_not_overflow(isa: str, type: TensorType) -> None:
    raw = random_raw(type, 16, 2 * type.block, seed=4)
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        extreme = with_body(raw, byte)
        for sign in (1, -1):
            x = np.full((3, raw.shape[1]), sign, np.float32)
            x[1, ::2] *= -1
            y = linear(isa, x, extreme)
            bound = 1e-6 * np.abs(rounded_activations(x, type)) @ magnitudes(extreme).T
            assert np.all(np.abs(y - product(extreme, x)) <= bound)


@pytest.mark.parametrize("type", BLOCK_TYPES + FLOAT_TYPES, ids=lambda t: t.name)
def test_packed_values_are_those_of_the_gguf_package(type: TensorType) -> None:
    raw = random_raw(type, 37, 2 * max(type.block, 16), seed=5)
    np.testing.assert_array_equal(_core.matrix_floats(ops_of("scalar").matrix(raw)), dequantized(raw))


@pytest.mark.parametrize(
    ("stored", "target"), [*every([F32], [F16, BF16, *BLOCK_TYPES]), *every([Q4_K, Q6_K], [F16, BF16, Q8_0, Q4_0])], ids=lambda t: t.name
)
def test_reencoded_values_are_those_that_the_gguf_package_reads_in_a_file(stored: TensorType, target: TensorType) -> None:
    raw = random_raw(stored, 21, 512, seed=6)
    for isa in ISAS:
        written = _core.quantize_rows(raw.data, stored.gguf_id, target.gguf_id, *raw.shape, None, 1, isa)
        expected = gguf.quants.dequantize(written, quant_type(target))
        np.testing.assert_array_equal(_core.matrix_floats(ops_of(isa).matrix(raw, target)), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise_kernels_at_every_length(isa: str) -> None:
    """Against the reference, over every length up to two vectors and their tails."""
    ops, reference, random = ops_of(isa), ReferenceOps(), np.random.default_rng(7)
    for width in range(1, 35):
        x, u = (random.normal(0, scale, (3, width)).astype(np.float32) for scale in (4, 1))
        weight, bias = random.normal(size=(2, width)).astype(np.float32)
        np.testing.assert_array_equal(eager(ops, lambda x, u: ops.add(x, u), x, u), x + u)
        scaled = eager(ops, lambda x, u: ops.add(x, u, 0.5, -3.0), x, u)
        np.testing.assert_allclose(scaled, x * np.float32(0.5) - u * np.float32(3), rtol=1e-6, atol=1e-6)
        for norm, weights in every((Norm(1e-6), Norm(1e-5, "layer")), (NormWeights(), NormWeights(weight), NormWeights(weight, bias))):
            native = NormWeights(*(None if v is None else _core.Vector(v) for v in (weights.weight, weights.bias)))
            ours = eager(ops, partial(ops.norm, weights=native, norm=norm), x)
            np.testing.assert_allclose(ours, reference.norm(x, weights, norm), rtol=5e-6, atol=2e-6)
        for activation in get_args(Activation)[:-1]:
            ours = eager(ops, partial(ops.activate, activation=activation), x)
            np.testing.assert_allclose(ours, reference.activate(x, activation), rtol=1e-5, atol=2e-6)
        for activation in get_args(Activation):
            ours = eager(ops, partial(ops.gate, activation=activation), x, u)
            np.testing.assert_allclose(ours, reference.gate(x, u, activation), rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_exponential_over_its_whole_range(isa: str) -> None:
    """silu(x) / x = 1 / (1 + e^-x) exposes the exponential: both ends and everything between."""
    x = np.linspace(-120, 120, 40001, dtype=np.float32)[None]
    ops = ops_of(isa)
    y = eager(ops, lambda x: ops.activate(x, "silu"), x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, wide / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-35)


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'neon' is not available .*scalar"):
        _core.Context(1, 1, "neon")
