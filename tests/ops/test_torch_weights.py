"""Weights of the torch op set that are no plain tensors: integers, which hold what their files hold, and layers in host memory."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linnet import LLM, SamplingParams
from linnet.errors import OutOfMemoryError
from linnet.forward import forward
from linnet.load.checkpoint import open_checkpoint
from linnet.load.dequantize import dequantize
from linnet.op_set import OpSet, torch_bytes
from linnet.ops.base import Batch
from linnet.ops.torch import matrices
from linnet.ops.torch.matrices import Offloaded, Packed, matrix_bytes, pack, product, rows_of
from linnet.ops.torch.ops import HostWeights, TorchOps
from linnet.ops.torch.placement import place
from linnet.tensors import BLOCKS, MXFP4, SUPER_BLOCKS, RawTensor, TensorType
from linnet.weights import Weights

CPU = torch.device("cpu")
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
SHAPE = (6, 512)


def made_up(type: TensorType, seed: int = 0, shape: tuple[int, int] = SHAPE) -> RawTensor:
    """Random bits, but for scales that are ordinary numbers."""
    random = np.random.default_rng([seed, type.gguf_id])
    blocks = random.integers(0, 256, (shape[0] * shape[1] // type.block, type.block_bytes)).astype(np.uint8)
    halves = {"q6_k": [208], "q3_k": [108], "q2_k": [80, 82], "q4_1": [0, 2], "q5_1": [0, 2], "q4_k": [0, 2], "q5_k": [0, 2]}
    if type == MXFP4:
        blocks[:, 0] = random.integers(110, 130, len(blocks))
    for at in halves.get(type.name, [] if type == MXFP4 else [0]):
        blocks[:, at : at + 2] = random.uniform(-0.01, 0.01, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return RawTensor(type.name, shape, type, blocks.reshape(-1))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The weights of every model that is opened."""
    weights: list[Weights] = []
    load = OpSet.load
    monkeypatch.setattr(OpSet, "load", lambda *arguments: weights.append(load(*arguments)) or weights[-1])
    return weights


@pytest.mark.parametrize("type", [*BLOCKS, *SUPER_BLOCKS], ids=lambda type: type.name)
def test_integers_hold_what_the_file_holds(type: TensorType) -> None:
    raw, other = made_up(type), made_up(type, 1)
    for dtype, allowed in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
        packed = pack([raw], dtype)
        assert packed.shape == SHAPE
        assert packed.nbytes == matrix_bytes(type, SHAPE, dtype) < 2 * np.prod(SHAPE)
        values, exact = packed.values(dtype).float().numpy(), dequantize(raw)
        np.testing.assert_allclose(values, exact, rtol=0, atol=allowed * np.abs(exact).max())
        stack = pack([raw, other], dtype, stacked=True)
        assert torch.equal(stack[0].values(dtype), packed.values(dtype))
        assert torch.equal(stack.values(dtype)[1], stack[1].values(dtype))


def test_products_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = made_up(BLOCKS[0])
    packed, exact = pack([raw], torch.float32), torch.from_numpy(dequantize(raw))
    x, bias, ids = torch.randn(3, SHAPE[1]), torch.randn(SHAPE[0]), torch.tensor([5, 0, 5])
    monkeypatch.setattr(matrices, "PIECE", 4 * SHAPE[1])  # in two pieces, of 4 and 2 rows
    for matrix in (packed, exact, Offloaded(packed, CPU), Offloaded(exact, CPU)):
        assert torch.allclose(product(x, matrix, bias), x @ exact.T + bias, atol=1e-4)
        assert torch.equal(rows_of(matrix, ids, torch.float32), exact[ids])


@pytest.mark.parametrize(("weights", "dtype", "allowed"), [("q8_0", "f32", 1e-4), ("q8_0", "bf16", 2e-3), ("q4_0", "bf16", 0.1)])
def test_how_far_quantized_models_are_off(weights: str, dtype: str, allowed: float, loaded: list[Weights]) -> None:
    """Mean Kullback-Leibler divergence of what the built-in model expects next, from float32."""
    with LLM("tiny", ops="torch", weights="f32", kv_dtype="f32") as llm:
        tokens = llm.tokenizer.encode("Once upon a time there was a bird. The capital of France is Paris. 17 + 25 = 42")
        exact = torch.from_numpy(llm.logits(tokens)).double().log_softmax(-1)
    with LLM("tiny", ops="torch", weights=weights, dtype=dtype) as llm:
        assert isinstance(loaded[-1].layers[0].mlp.up.matrix, Packed)  # type: ignore[union-attr]
        found = torch.from_numpy(llm.logits(tokens)).double().log_softmax(-1)
    assert 0 < float((exact.exp() * (exact - found)).sum(-1).mean()) < allowed


def test_what_is_kept_how_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "linnet.ops"), LLM("tiny", ops="torch", weights="q4_0", dtype="bf16"):
        assert "q4_0 weights are kept as 4-bit integers with float16 scales, and computed with as torch.bfloat16" in caplog.text


# ---- layers in host memory


def test_layers_in_host_memory_change_nothing(loaded: list[Weights]) -> None:
    expected = None
    for offload in (0, 3):
        with LLM("tiny", ops="torch", weights="q8_0", offload=offload) as llm:
            layers = loaded[-1].layers
            assert [isinstance(layer.mlp.up.matrix, Offloaded) for layer in layers] == [i >= 4 - offload for i in range(4)]
            answer = llm.generate("What is 3 + 4?", GREEDY)[0].token_ids
            expected = expected or answer
            assert answer == expected


def test_every_op_finds_its_weights_on_the_device() -> None:
    """A device without memory, "meta", beside which nothing else may stand in an operation: what is not brought over is an error."""
    device, checkpoint = torch.device("meta"), open_checkpoint("tiny")
    ops = TorchOps(device, torch.bfloat16)
    weights = checkpoint.assemble(ops, elsewhere={3: HostWeights(ops)})
    assert isinstance(weights.layers[3].attention.query.matrix, Offloaded)
    assert weights.layers[3].attention.query.matrix.held.device == CPU
    assert weights.layers[2].attention.query.matrix.device == device
    ops.allocate_cache(checkpoint.spec, [1], "f16")
    zero = np.zeros(1, np.int32)
    batch = Batch(zero, zero, zero - 1, zero, zero[None, None], zero + 1, zero + 1, zero)
    logits = ops.compute(checkpoint.spec, partial(forward, ops, checkpoint.spec, weights), batch)
    assert logits.shape == (1, checkpoint.spec.vocab_size)
    assert logits.device == device


def test_pinned_memory_is_counted_as_it_is_taken() -> None:
    checkpoint = open_checkpoint("tiny")
    plain, pinned = (torch_bytes(checkpoint, None, torch.bfloat16, pinned)[0] for pinned in (False, True))
    assert all(less < more < 2 * less for less, more in zip(plain, pinned, strict=True))


@given(
    layers=st.lists(st.integers(1, 100), min_size=1, max_size=12),
    outside=st.integers(0, 100),
    memory=st.integers(0, 1500),
    kv_memory=st.one_of(st.none(), st.integers(0, 300)),
)
def test_as_few_layers_as_memory_allows(layers: list[int], outside: int, memory: int, kv_memory: int | None) -> None:
    room = int(0.85 * memory) if kv_memory is None else memory - kv_memory
    largest = max(layers) // 2
    try:
        placed = place(layers, outside, largest, None, memory, kv_memory)
    except OutOfMemoryError:
        assert outside + largest > room
        return
    assert placed.on_device + placed.on_host == outside + sum(layers)
    assert placed.on_host == sum(layers[index] for index in placed.layers)
    assert placed.on_device + (largest if placed.on_host else 0) <= room
    if placed.layers:  # with one layer more it would not fit
        one_more = placed.on_device + layers[placed.layers[0]]
        assert one_more + (largest if len(placed.layers) > 1 else 0) > room


def test_a_device_that_is_too_small_is_helped_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loaded: list[Weights]
) -> None:
    from linnet.ops.torch import devices

    monkeypatch.setattr(devices, "free_memory", lambda device: 10_000_000)
    with LLM("tiny", ops="torch", context=128) as llm:
        layers = loaded[-1].layers
        assert [isinstance(layer.mlp.up.matrix, Offloaded) for layer in layers] == [False, False, True, True]
        assert "layers 2 to 3 stay in host memory" in caplog.text
        assert llm.generate("What is 3 + 4?", GREEDY)[0].token_ids
    monkeypatch.setattr(devices, "free_memory", lambda device: 500_000)
    with pytest.raises(OutOfMemoryError, match=r"which has room for 425000; choose smaller weights"):
        LLM("tiny", ops="torch", context=128)
