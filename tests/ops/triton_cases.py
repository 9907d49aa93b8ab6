"""Triton's kernels, run by its interpreter, or on the device that LINNET_TEST_DEVICE names: attention from the pages, products with
packed weights and what passes the states of recurrent layers are those of PyTorch's operations.

Run by `test_triton_kernels.py`, in a process of its own: Triton decides as it is imported whether it interprets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from test_torch_weights import made_up

from linnet import LLM, SamplingParams
from linnet.arch.spec import Attention, GatedDeltaNet, Norm
from linnet.ops.base import PAGE_SIZE
from linnet.ops.torch import devices, kernels
from linnet.ops.torch.attention import attend
from linnet.ops.torch.cache import Cache
from linnet.ops.torch.matrices import pack, product
from linnet.ops.torch.recurrent import States, Stretch, convolve, delta_rule
from linnet.ops.torch.step import Part
from linnet.tensors import Q4_0, Q4_K, Q6_K, Q8_0, TensorType
from linnet.weights import FilterWeights

DEVICE = torch.device(os.environ.get("LINNET_TEST_DEVICE", "cpu"))
PLAIN = Attention(4, 2, 32, (), 32**-0.5)
CASES = {
    "plain": PLAIN,
    "odd widths": replace(PLAIN, heads=6, kv_heads=1, head_dim=40, value_dim=24),
    "one head each": replace(PLAIN, heads=3, kv_heads=3),
    "window": replace(PLAIN, window=70),
    "softcap": replace(PLAIN, softcap=5.0),
    "alibi": replace(PLAIN, alibi=(0.5, 0.25, 0.125, 0.0625)),
    "wide": replace(PLAIN, head_dim=192, value_dim=128),
}


ATTENDING = [(case, "f32", "float32", 1e-5) for case in CASES]
ATTENDING += [("odd widths", "q8_0", "float32", 1e-5), ("plain", "f16", "float16", 5e-3)]
if DEVICE.type != "cpu":  # the interpreter's products of bfloat16 are wrong
    ATTENDING += [("plain", "bf16", "bfloat16", 5e-2), ("window", "f16", "bfloat16", 5e-2)]


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


@pytest.mark.parametrize(("case", "kv_dtype", "dtype", "allowed"), ATTENDING)
def test_attention_is_that_of_the_op_set(case: str, kv_dtype: str, dtype: str, allowed: float) -> None:
    attention, kind = CASES[case], getattr(torch, dtype)
    torch.manual_seed(0)
    positions = torch.tensor([[0], [300], [575]])  # the last of them in a third split
    count, width = len(positions), 18
    cache = Cache({0: attention}, [count * width], kv_dtype, DEVICE)
    tables = torch.randperm(count * width).view(1, count, width)
    part = Part(slice(0, count), tables, positions, positions, width * PAGE_SIZE, causal=False)
    for places in part.places[0]:
        cache.keys[0].write(places, torch.randn(len(places), attention.kv_heads * attention.head_dim))
        cache.values[0].write(places, torch.randn(len(places), attention.kv_heads * attention.value_head_dim))
    q = torch.randn(count, attention.heads, attention.head_dim).to(kind)
    slopes = None if attention.alibi is None else torch.tensor(attention.alibi)
    for sinks in (None, torch.randn(attention.heads)) if case == "plain" else (None,):
        read = [store.read(part.places[0], kind) for store in (cache.keys[0], cache.values[0])]
        expected = attend(q[:, None], *read, part, attention, slopes, sinks)[:, 0]
        found = kernels.attend_pages(
            q, cache.keys[0], cache.values[0], tables[0], positions[:, 0], positions[:, 0], attention, slopes, sinks
        )
        assert found.dtype == kind
        assert (found.float() - expected.float()).abs().max() < allowed


F32, F16 = torch.float32, torch.float16
PRODUCTS = [(Q8_0, F32, 5), (Q4_0, F32, 64), (Q4_K, F16, 1), (Q6_K, F16, 40), (Q4_0, F16, 20)]


@pytest.mark.parametrize(("type", "dtype", "rows"), PRODUCTS)
def test_products_with_packed_weights(type: TensorType, dtype: torch.dtype, rows: int) -> None:
    matrix = pack([made_up(type, 3, (45, 512))], dtype).to(DEVICE)
    x, bias = torch.randn(rows, 512).to(dtype), torch.randn(45).to(dtype)
    expected = product(x.float(), matrix, bias.float())
    found = product(x, matrix, bias, kernels)  # type: ignore[arg-type]
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < expected.abs().max() * (1e-5 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize("type", [Q8_0, Q4_0, Q4_K, Q6_K])
def test_packed_weights_expanded(type: TensorType) -> None:
    raws = [made_up(type, seed, (7, 512)) for seed in range(2)]
    for matrix in (pack(raws[:1], torch.float32).to(DEVICE), pack(raws, torch.float32, stacked=True).to(DEVICE)):
        assert torch.allclose(kernels.expanded(matrix, torch.float32), matrix.values(torch.float32), rtol=1e-6, atol=1e-7)
    x = torch.randn(kernels.FEW_ROWS + 1, 512)
    assert torch.allclose(product(x, matrix[0], None, kernels), product(x, matrix[0]), atol=1e-4)  # type: ignore[arg-type]


Rows = Callable[[], tuple[list[Stretch], int]]


def decoding() -> tuple[list[Stretch], int]:
    """Of three sequences on seven pages: one begins, one comes to a new page, one stays on its own; and how many rows that is."""
    saved = [(0, torch.tensor([4, 1, 5]))]
    return [Stretch(slice(0, 3), torch.tensor([4, 0, 5]), torch.tensor([True, False, False]), saved)], 3


def prompts() -> tuple[list[Stretch], int]:
    """One goes on within its page, one fills the page that it starts on, one begins; between the first two stands a row by itself."""
    plain, fresh = torch.tensor([False]), torch.tensor([True])
    first = Stretch(slice(0, 5), torch.tensor([2]), plain, [(4, torch.tensor([2]))])
    second = Stretch(slice(6, 10), torch.tensor([3]), plain, [(1, torch.tensor([3])), (3, torch.tensor([0]))])
    third = Stretch(slice(10, 17), torch.tensor([0]), fresh, [(5, torch.tensor([1])), (6, torch.tensor([6]))])
    return [first, second, third, Stretch(torch.tensor([5]), torch.tensor([5]), plain, [(0, torch.tensor([4]))])], 17


def states_of(size: int) -> list[States]:
    """Two that hold the same."""
    pair = [States(7, size, DEVICE) for _ in range(2)]
    pair[0].rows.copy_(torch.randn(7, size))
    pair[1].rows.copy_(pair[0].rows)
    return pair


@pytest.mark.parametrize("rows", [decoding, prompts])
@pytest.mark.parametrize(("key_dim", "value_dim", "dtype", "allowed"), [(16, 16, F32, 2e-6), (20, 13, F32, 2e-6), (16, 24, F16, 2e-3)])
def test_the_delta_rule(rows: Rows, key_dim: int, value_dim: int, dtype: torch.dtype, allowed: float) -> None:
    torch.manual_seed(0)
    net = GatedDeltaNet(2, 4, key_dim, value_dim, taps=3, norm=Norm(1e-6))
    (stretches, count), pair = rows(), states_of(net.state_size)
    q, k = (torch.nn.functional.normalize(torch.randn(count, 2, key_dim), dim=2).flatten(1).to(dtype) for _ in range(2))
    v, rate, strength = torch.randn(count, 4 * value_dim).to(dtype), torch.randn(count, 4).to(dtype) * 5, torch.rand(count, 4).to(dtype)
    decay = torch.tensor([0.01, 0.1, 1.0, 4.0])
    expected, found = (
        delta_rule(q, k, v, rate, strength, decay, states, stretches, net, made)  # type: ignore[arg-type]
        for states, made in zip(pair, (None, kernels), strict=True)
    )
    assert found.dtype == dtype
    assert (found.float() - expected.float()).abs().max() < allowed * expected.abs().max()
    assert (pair[0].rows - pair[1].rows).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [decoding, prompts])
@pytest.mark.parametrize(("taps", "biased", "dtype"), [(4, False, F32), (2, True, F32), (3, True, F16)])
def test_convolutions(rows: Rows, taps: int, biased: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    width, start = 300, 40
    (stretches, count), pair = rows(), states_of(start + (taps - 1) * width + 7)
    x = torch.randn(count, width).to(dtype)
    weights = FilterWeights(torch.randn(width, 1, taps), torch.randn(width) if biased else None)
    expected, found = (
        convolve(x, weights, states, stretches, taps, start, made)  # type: ignore[arg-type]
        for states, made in zip(pair, (None, kernels), strict=True)
    )
    assert found.dtype == dtype
    assert (found.float() - expected.float()).abs().max() < (1e-5 if dtype == F32 else 1e-2)
    assert torch.equal(pair[0].rows, pair[1].rows)


def test_a_model_answers_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    answers = []
    for opened in (None, kernels):
        monkeypatch.setattr(devices, "open_kernels", lambda device, opened=opened: opened)
        with LLM("tiny", ops="torch", device=str(DEVICE), dtype="f32", kv_dtype="f32", context=64) as llm:
            assert llm.engine.ops.kernels is opened  # type: ignore[attr-defined]
            answers.append([c.token_ids for c in llm.generate(["Once", "1"], params)])
    assert answers[0] == answers[1]
