"""The torch op set where tests of whole models do not reach: its types, its pages, its devices and what it says when they fail."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from linnet import LLM, SamplingParams
from linnet.arch.spec import Attention
from linnet.bench.device import wait
from linnet.cli.options import model_group, with_options
from linnet.errors import InvalidRequestError, MissingDependencyError, OutOfMemoryError
from linnet.ops.base import KV_DTYPES, PAGE_SIZE
from linnet.ops.reference import KV_TYPES, rounded
from linnet.ops.torch import attention as attention_module
from linnet.ops.torch.attention import attend
from linnet.ops.torch.cache import Cache, Store
from linnet.ops.torch.devices import DEVICES, VENDORS, check_compiler, dtype_of, free_memory, open_device, open_devices, open_kernels
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.step import Part

CPU = torch.device("cpu")
GREEDY = SamplingParams(max_tokens=64, temperature=0.0)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("width", [8, 40, 64])
def test_pages_keep_what_the_reference_keeps(kv_dtype: str, width: int) -> None:
    random = np.random.default_rng(width)
    x = (random.standard_normal((7, 3, width)) * random.choice([1e-8, 1, 1e5], (7, 3, 1))).astype(np.float32)
    x[2, 1] = 0
    store, places = Store(2, 3, width, kv_dtype, CPU), torch.tensor([40, 3, 4, 0, 63, 9, 31])
    store.write(places, torch.from_numpy(x).flatten(1))
    kept = store.read(places[None], torch.float32)[0].numpy()
    np.testing.assert_array_equal(kept, rounded(x, KV_TYPES[kv_dtype]))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_page_is_copied_in_every_layer(kv_dtype: str) -> None:
    attention = Attention(2, 2, 8, (), 1.0, value_dim=4)
    cache = Cache({0: attention, 1: attention}, [3], kv_dtype, CPU)
    places = torch.arange(PAGE_SIZE)
    for store in (*cache.keys.values(), *cache.values.values()):
        store.write(places + PAGE_SIZE, torch.randn(PAGE_SIZE, 2 * store.width))
    cache.copy_page(1, 2, 0)
    for store in (*cache.keys.values(), *cache.values.values()):
        copied, source, other = (store.read(places + page * PAGE_SIZE, torch.float32) for page in (2, 1, 0))
        assert torch.equal(copied, source)
        assert not other.any()


PLAIN = Attention(4, 2, 16, (), 0.25)
KINDS = [PLAIN, replace(PLAIN, window=9), replace(PLAIN, softcap=3.0), replace(PLAIN, alibi=(1, 0.5, 0.2, 0.1))]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize(("queries", "length"), [(30, 30), (7, 30), (1, 30)])
def test_prompts_attend_as_the_definition_says_in_pieces_too(
    attention: Attention, queries: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, as a later chunk, and as one row: what PyTorch is asked for without a mask, with one, and of some queries at a time."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, count, heads, 16) for count, heads in ((queries, 4), (length, 2), (length, 2)))
    at = torch.arange(length - queries, length)[None]
    part = Part(slice(None), torch.zeros(1, 1, 1, dtype=torch.int64), at, at, length, causal=True)
    slopes = None if attention.alibi is None else torch.tensor(attention.alibi)
    for sinks in (None, torch.randn(4)):
        expected = by_hand(q[0], k[0], v[0], attention, sinks)
        assert torch.allclose(attend(q, k, v, part, attention, slopes, sinks)[0], expected, atol=1e-5)
        monkeypatch.setattr(attention_module, "MOST_SCORES", 4 * length * 3)  # three queries at a time
        assert torch.allclose(attend(q, k, v, part, attention, slopes, sinks)[0], expected, atol=1e-5)
        monkeypatch.undo()


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attention: Attention, sinks: torch.Tensor | None) -> torch.Tensor:
    """Row by row and head by head; q: the last rows of a sequence, [queries, heads, head_dim]."""
    out = torch.zeros_like(q)
    for row, head in np.ndindex(len(q), attention.heads):
        position, own = len(k) - len(q) + row, head // (attention.heads // attention.kv_heads)
        first = 0 if attention.window is None else max(0, position + 1 - attention.window)
        scores = k[first : position + 1, own] @ q[row, head] * attention.scale
        if attention.alibi is not None:
            scores = scores + attention.alibi[head] * (torch.arange(first, position + 1) - position)
        if attention.softcap is not None:
            scores = attention.softcap * torch.tanh(scores / attention.softcap)
        weights = scores.exp() / (scores.exp().sum() + (0 if sinks is None else sinks[head].exp()))
        out[row, head] = weights @ v[first : position + 1, own]
    return out


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["k", "v"])
def test_what_is_not_finite_reaches_only_the_rows_that_see_it(attention: Attention, bad: float, place: str) -> None:
    """Sequences of one row each, whose pages go on past their ends; and one of many rows, in each of which the next ones are masked."""
    torch.manual_seed(0)
    slopes = None if attention.alibi is None else torch.tensor(attention.alibi)
    last = torch.tensor([[3], [17], [29]])
    prompt = torch.arange(20, 30)[None]
    for positions, causal in ((last, False), (prompt, True)):
        part = Part(slice(None), torch.zeros(1, len(positions), 1, dtype=torch.int64), positions, positions, 30, causal)
        x = {name: torch.randn(len(positions), 30, 2, 16) for name in "kv"}
        q = torch.randn(*positions.shape, 4, 16)
        expected = attend(q, x["k"].clone(), x["v"].clone(), part, attention, slopes, None)
        for at in (2, 15, 25, 29):
            broken = {name: values.clone() for name, values in x.items()}
            broken[place][:, at, 1, 5] = bad
            seen = (positions >= at) & (positions < at + (attention.window or 30))
            found = attend(q, broken["k"], broken["v"], part, attention, slopes, None)
            assert found[seen].isnan().all()
            assert torch.allclose(found[~seen], expected[~seen], atol=1e-6)


@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "f16"])
def test_what_pages_held_before_is_nobodys(kv_dtype: str) -> None:
    prompts = [[5, 6, 7], list(range(100, 160)), [8] * 40]
    with LLM("tiny", ops="torch", kv_dtype=kv_dtype, prefix_cache=False) as llm:
        expected = [completion.token_ids for completion in llm.generate(prompts, GREEDY)]
        cache = llm.engine.ops.cache  # type: ignore[attr-defined]
        for store in (*cache.keys.values(), *cache.values.values()):
            store.rows.fill_(np.nan)
        assert [completion.token_ids for completion in llm.generate(prompts, GREEDY)] == expected


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_built_in_model_answers(dtype: str) -> None:
    with LLM("tiny", ops="torch", dtype=dtype) as llm:
        assert llm.chat([{"role": "user", "content": "What is 17 + 25?"}], GREEDY).text.endswith("42")


def test_greedy_tokens_are_those_of_the_native_op_set_alone_and_in_a_batch() -> None:
    prompts = ["What is 3 + 4?", "The capital of", "One, two, three,", "Once upon a time there was"]
    with LLM("tiny", kv_dtype="f32") as native, LLM("tiny", ops="torch", kv_dtype="f32") as llm:
        expected = [completion.token_ids for completion in native.generate(prompts, GREEDY)]
        assert [completion.token_ids for completion in llm.generate(prompts, GREEDY)] == expected
        assert [llm.generate(prompt, GREEDY)[0].token_ids for prompt in prompts] == expected


@pytest.mark.parametrize(("maker", "device"), list(VENDORS.items()))
def test_a_makers_flag_names_its_device(maker: str, device: str) -> None:
    given = {}
    command = with_options(load=model_group(("device", "dtype")))(lambda load: given.update(load))
    flags = dict.fromkeys(["device", "dtype", *VENDORS])
    command(**flags | {maker: True})
    assert given == {"device": device}
    assert device in DEVICES
    with pytest.raises(InvalidRequestError, match=f"--{maker} and --device each say where to compute"):
        command(**flags | {maker: True, "device": "cpu"})


@pytest.mark.parametrize(("name", "package"), [("mlu", "torch_mlu"), ("musa:0", "torch_musa"), ("npu", "torch_npu")])
def test_a_device_without_its_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=package):
        open_device(name)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequestError, match="finds none here"):
        open_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert open_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InvalidRequestError, match="this machine has 2 of them"):
        open_device("cuda:2")


def test_devices_that_cannot_share_a_model() -> None:
    with pytest.raises(InvalidRequestError, match="tp is 2, and devices 'npu' cannot add up what each has; use device=cuda or cpu"):
        open_devices("npu", 2)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .linnet\[torch\]"):
        LLM("tiny", ops="torch")


def test_types_by_what_the_device_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    assert dtype_of(CPU, None) == torch.float32
    for capability, dtype in (((9, 0), torch.bfloat16), ((7, 5), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert dtype_of(gpu, None) == dtype
    with pytest.raises(InvalidRequestError, match=r"'bf16'.*use f16 or f32"):
        dtype_of(gpu, "bf16")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert (free_memory(gpu), free_memory(CPU)) == (123, None)


@pytest.mark.parametrize(("capability", "reason"), [(6, "knows no GPUs as old as 'cuda:1'"), (9, "does not run .it needs a C compiler")])
def test_where_triton_does_not_run(capability: int, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Before Volta, or where it cannot compile what launches kernels (here: for want of a driver), PyTorch's own operations run."""
    pytest.importorskip("triton")
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, device.index))
    if capability == 9:
        monkeypatch.setattr("triton.runtime.driver", None)
    assert open_kernels(gpu) is None
    assert re.search(f"Triton {reason}.*: PyTorch's own operations", caplog.text)
    with pytest.raises(MissingDependencyError, match=f"needs Triton on this device, which {reason}"):
        check_compiler(gpu)


def test_the_device_that_is_measured_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would wait for the current one."""
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for device in (torch.device("cuda", 1), torch.device("mps")):
        wait(device)
    assert waited == [torch.device("cuda", 1), "mps"]


def test_the_pool_is_planned_by_the_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import linnet.ops.torch.devices as devices

    monkeypatch.setattr(devices, "free_memory", lambda device: 4 * 2**20)  # most of which weights take
    with pytest.raises(OutOfMemoryError, match=r"1024 tokens takes 2097152 bytes and 1130086 are available for it"):
        LLM("tiny", ops="torch", context=1024)


def test_a_step_for_which_the_device_has_no_room_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("tiny", ops="torch") as llm:
        broken = SimpleNamespace(linear=TorchOps.linear)

        def linear(self: TorchOps, *arguments: object) -> object:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        monkeypatch.setattr(TorchOps, "linear", linear)
        with pytest.raises(OutOfMemoryError, match=r"no room for a step of .* tokens .*Tried to allocate 2 GiB"):
            llm.generate("What is 3 + 4?", GREEDY)
        monkeypatch.setattr(TorchOps, "linear", broken.linear)
        assert llm.generate("What is 3 + 4?", GREEDY)[0].token_ids
