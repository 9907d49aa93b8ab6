"""`LLM(model)` chooses by the machine what nobody said, what was said stays, and what fits nowhere is refused before it is read."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from contextlib import closing

import pytest

from linnet import LLM, OutOfMemoryError, SamplingParams
from linnet.choosing import SMALL, Place, choose, least_cache
from linnet.engine.page_plan import MEMORY_SHARE
from linnet.hardware.shapes import of_size
from linnet.load.checkpoint import open_checkpoint
from linnet.load.weight_bytes import bytes_of
from linnet.model_options import ModelOptions
from linnet.op_set import open_op_set
from linnet.ops.torch.devices import may_have_gpu
from linnet.tensors import TYPES

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@pytest.fixture
def machine(monkeypatch):
    """Sets what there is: bytes of memory, and GPUs by their free bytes; PyTorch computes for them on the processor."""

    def set(memory, **gpus):
        named = {name.replace("_", ":"): free for name, free in gpus.items()}
        monkeypatch.setattr("linnet.choosing.available_memory", lambda: memory)
        monkeypatch.setattr("linnet.choosing.accelerators", lambda: list(named))
        monkeypatch.setattr("linnet.choosing.open_device", lambda name: name)
        monkeypatch.setattr("linnet.choosing.free_memory", named.get)

        def dtype_of(device, wanted):
            import torch

            return torch.bfloat16

        monkeypatch.setattr("linnet.choosing.dtype_of", dtype_of)

    return set


def chosen(checkpoint, **options):
    found = choose(checkpoint, ModelOptions(**options))
    return found.device, found.weights


@pytest.fixture(scope="module")
def seven():
    """Seven billion parameters in bf16; no file is behind them."""
    checkpoint = of_size("llm:7b")
    yield checkpoint
    checkpoint.close()


def test_weights_stay_as_they_are_stored_wherever_that_fits(seven, machine):
    stored, cache = bytes_of(seven, None), least_cache(seven, ModelOptions())
    machine(int(stored + 1.01 * cache / MEMORY_SHARE))
    assert chosen(seven) == (None, "auto")
    machine(int(stored + 0.9 * cache / MEMORY_SHARE))
    assert chosen(seven) == (None, "q8_0")


def test_weights_become_smaller_where_they_must_and_the_log_says_so(seven, machine, caplog):
    for memory, weights in ((10e9, "q8_0"), (6e9, "q4_0")):
        machine(int(memory))
        with caplog.at_level(logging.WARNING, "linnet.llm"):
            assert chosen(seven) == (None, weights)
        said = caplog.records[-1].getMessage()
        assert said.startswith(f"llm:7b: weights are loaded as {weights}, {bytes_of(seven, TYPES[weights])} bytes: they would take ")
        assert f"as stored on cpu, where {int(memory)} can be taken; weights='stored' (--weights stored) keeps them" in said


def test_what_was_said_stays(seven, machine):
    machine(int(10e9), cuda_0=int(80e9))
    assert chosen(seven, weights="q4_0", threads=2) == (None, "q4_0")
    assert chosen(seven, device="cpu") == ("cpu", "q8_0")
    assert chosen(seven, ops="native") == (None, "q8_0")
    assert chosen(seven, device="cpu", low_memory=True) == ("cpu", "auto")
    assert chosen(seven, ops="reference") == (None, "auto")
    for weights in ("stored", "bf16"):
        with pytest.raises(OutOfMemoryError, match=r"choose smaller weights, as q4_0, or .*"):
            choose(seven, ModelOptions(device="cpu", weights=weights))


def test_a_gpu_is_taken_where_the_weights_fit_as_they_are(seven, machine):
    machine(int(80e9), cuda_0=int(10e9), cuda_1=int(24e9))
    assert chosen(seven) == ("cuda:1", "auto")
    machine(int(80e9), cuda_0=int(10e9))
    assert chosen(seven) == (None, "auto")
    machine(int(6e9), cuda_0=int(10e9))
    assert chosen(seven) == ("cuda:0", "q8_0")
    assert choose(seven, ModelOptions()).batch == 64
    assert choose(seven, ModelOptions(device="cpu", weights="q4_0")).batch == 16


def test_small_models_look_for_no_gpu(machine):
    machine(int(80e9), cuda_0=int(80e9))
    with closing(open_checkpoint("tiny")) as tiny:
        assert bytes_of(tiny, None) < SMALL
        assert chosen(tiny) == (None, "auto")


def test_what_fits_nowhere_is_refused_with_the_figures(seven, machine):
    machine(int(3e9), cuda_0=int(2e9))
    least = bytes_of(seven, TYPES["q4_0"])
    with pytest.raises(OutOfMemoryError, match=rf"^llm:7b: its weights take {least} bytes as q4_0 on .* can be taken, and the KV cache at"):
        choose(seven, ModelOptions())
    with pytest.raises(OutOfMemoryError, match="choose a smaller model or context, or free memory"):
        choose(seven, ModelOptions(context=4096))


def test_a_model_that_is_made_smaller_answers_as_one_that_was_asked_to_be(machine):
    with closing(open_checkpoint("tiny")) as tiny:
        place = Place(None, 0)
        memory = next(n for n in range(0, 2**26, 2**16) if Place(None, n).holds(tiny, ModelOptions(), bytes_of(tiny, TYPES["q8_0"])))
        assert not place.holds(tiny, ModelOptions(), bytes_of(tiny, TYPES["q8_0"]))
    machine(memory)
    with LLM("tiny", threads=1) as made, LLM("tiny", threads=1, weights="q8_0") as asked:
        assert made.generate("The capital of", GREEDY)[0].token_ids == asked.generate("The capital of", GREEDY)[0].token_ids


def test_a_draft_model_is_to_fit_as_well(machine, monkeypatch):
    with closing(open_checkpoint("tiny")) as tiny:
        stored, small, cache = bytes_of(tiny, None), bytes_of(tiny, TYPES["q8_0"]), least_cache(tiny, ModelOptions())
        memory = int(small + stored + 2.02 * cache / MEMORY_SHARE)
        assert memory < 2 * stored + 2 * cache / MEMORY_SHARE
        machine(memory)
        assert choose(tiny, ModelOptions()).weights == "auto"
        assert choose(tiny, ModelOptions(), tiny).weights == "q8_0"
        machine(stored)
        with pytest.raises(OutOfMemoryError, match=rf"beside {stored} of its draft model, and the KV cache at least {2 * cache} bytes"):
            choose(tiny, ModelOptions(), tiny)
    machine(memory)
    for module in ("draft", "engine.page_plan"):
        monkeypatch.setattr(f"linnet.{module}.available_memory", lambda: memory)
    with LLM("tiny", threads=1, draft="tiny") as both, LLM("tiny", threads=1, weights="q8_0") as asked:
        assert both.generate("The capital of", GREEDY)[0].token_ids == asked.generate("The capital of", GREEDY)[0].token_ids


def test_all_that_kv_memory_allows_is_to_fit(machine, monkeypatch):
    with closing(open_checkpoint("tiny")) as tiny:
        stored, small, asked = bytes_of(tiny, None), bytes_of(tiny, TYPES["q8_0"]), 5 * 2**20
        machine(small + asked)
        assert choose(tiny, ModelOptions(kv_memory=asked)).weights == "q8_0"
        with pytest.raises(
            OutOfMemoryError, match=rf"{stored} bytes as stored .*{small + asked} can be taken, .* {asked} bytes.*lower kv_m"
        ):
            choose(tiny, ModelOptions(weights="stored", kv_memory=asked))
        most = least_cache(tiny, ModelOptions(kv_memory=2**40))  # no more is ever taken
        machine(stored + most)
        assert choose(tiny, ModelOptions(kv_memory=2**40)).weights == "auto"
    monkeypatch.setattr("linnet.engine.page_plan.available_memory", lambda: 4_000_000)
    with pytest.raises(OutOfMemoryError, match=r"takes .* bytes of the 5242880 that kv_memory allows, and \d+ are available beside"):
        LLM("tiny", low_memory=True, kv_memory=asked)


def test_mapped_weights_take_no_memory(monkeypatch):
    """What is left are norms, which are few; there is room for the whole context where the weights would leave none."""
    with closing(open_checkpoint("tiny")) as tiny:
        stored, own = bytes_of(tiny, None), open_op_set(ModelOptions(low_memory=True), tiny).weight_bytes
        assert own == 4 * sum(tiny.source.shape(name)[0] for name in tiny.source.names() if "norm" in name)
    monkeypatch.setattr("linnet.engine.page_plan.available_memory", lambda: stored)
    with LLM("tiny", threads=1, low_memory=True, context=1024) as llm:
        assert llm.context == 1024


@pytest.mark.parametrize(
    ("version", "device_file", "there"),
    [
        ("cuda: Optional[str] = '12.8'\nhip = None\n", "nvidia0", True),
        ("cuda = None\nhip: Optional[str] = '6.4'\n", "kfd", True),
        ("cuda = None\nxpu = '20250201'\n", "dri/renderD128", True),
        ("cuda: Optional[str] = '12.8'\n", "null", False),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", "nvidia0", False),
    ],
)
def test_pytorch_is_asked_for_gpus_only_where_there_can_be_one(tmp_path, monkeypatch, version, device_file, there):
    from importlib.machinery import ModuleSpec

    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text(version)
    (tmp_path / "dev" / device_file).parent.mkdir(parents=True)
    (tmp_path / "dev" / device_file).write_text("")
    found = ModuleSpec("torch", None, origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr("linnet.ops.torch.devices.find_spec", lambda name: found)
    monkeypatch.setattr("linnet.ops.torch.devices.sys", type("", (), {"platform": "linux", "modules": {}}))
    assert may_have_gpu(tmp_path) is there
    monkeypatch.setattr("linnet.ops.torch.devices.find_spec", lambda name: None)
    assert may_have_gpu(tmp_path) is False


_LIMITED = """
import json, resource, sys
from linnet import LLM, OutOfMemoryError, SamplingParams
from linnet.load.random_weights import open_random
from linnet.tensors import TYPES
def answer(llm):
    return llm.generate("The capital of", SamplingParams(temperature=0.0, max_tokens=8))[0].token_ids
wanted, = [answer(llm) for llm in [LLM("tiny", threads=1)]]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, resource.RLIM_INFINITY))
said = []
for options in ({}, {"kv_memory": 2**23}):
    try:
        LLM.from_checkpoint(open_random(sys.argv[1], TYPES["q8_0"]), threads=1, weights="f32", **options)
    except OutOfMemoryError as error:
        said.append(str(error))
with LLM("tiny", threads=1) as llm:
    print(json.dumps([said, answer(llm) == wanted]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_process_that_may_not_have_the_memory_is_told_so_and_goes_on(tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16}
    config = {"model_type": "llama", "vocab_size": 8000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, same = json.loads(done.stdout)
    assert same
    assert len(said) == 2
    assert all("its weights take" in message and "can be taken" in message for message in said)
