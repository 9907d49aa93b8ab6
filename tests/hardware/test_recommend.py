"""What is recommended for machines of any size: it fits, it opens, and it is refused where nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from linnet import LLM, InvalidRequestError, ModelFileError, OutOfMemoryError, SamplingParams, recommend
from linnet.hardware.gpus import Gpu, device_bandwidth
from linnet.hardware.report import hardware_info
from linnet.hardware.shapes import of_size


@pytest.fixture(scope="module")
def machine():
    """16 GB, read at 20 GB/s, without a GPU."""
    return replace(hardware_info(measure=False), available_bytes=16 * 10**9, read_bandwidth=20e9, gpus=[])


def test_a_small_model_is_left_as_it_is_and_opens_as_recommended(machine):
    found = recommend("tiny", machine)
    assert (found.device, found.weights, found.context, found.batch) == ("cpu", "auto", 1024, 16)
    with LLM("tiny", threads=1, **found.options) as llm:
        assert llm.context == found.context
        assert llm.generate("Hi", SamplingParams(max_tokens=2))[0].text


def test_speed_is_bandwidth_over_the_bytes_of_a_token(machine):
    found = recommend("llm:7b", machine)
    assert (found.weights, found.device) == ("q4_0", "cpu")
    assert found.total_bytes <= machine.available_bytes
    assert found.tokens_per_s == pytest.approx(20e9 / (0.5625 * 6.37e9 + 60e6), rel=0.03)
    twice = recommend("llm:7b", replace(machine, read_bandwidth=40e9))
    assert twice.tokens_per_s == pytest.approx(2 * found.tokens_per_s)


def test_weights_are_no_smaller_than_speed_and_memory_ask(machine):
    assert recommend("llm:7b", replace(machine, read_bandwidth=400e9)).weights == "auto"
    assert recommend("llm:7b", replace(machine, read_bandwidth=200e9)).weights == "q8_0"
    tight = recommend("llm:7b", replace(machine, available_bytes=6 * 10**9, read_bandwidth=400e9))
    assert tight.weights == "q4_0"
    assert any(reason.startswith("not q8_0") for reason in tight.reasons)


def test_what_fits_nowhere_is_refused(machine):
    with pytest.raises(OutOfMemoryError, match=r"llm:70b: its weights take 39\.2 GB as q4_0 .* 16 GB can be taken now"):
        recommend("llm:70b", machine)


def test_a_gpu_is_preferred_where_the_model_fits(machine, monkeypatch):
    monkeypatch.setattr("linnet.hardware.recommend.device_bandwidth", lambda device: 1e12)
    small, large = Gpu("S", "cuda:0", free_bytes=10**9), Gpu("L", "cuda:1", free_bytes=48 * 10**9)
    found = recommend("llm:7b", replace(machine, gpus=[small, large]))
    assert (found.device, found.options["device"], found.weights) == ("cuda:1", "cuda:1", "auto")
    assert found.tokens_per_s == pytest.approx(1e12 / (2 * 6.37e9), rel=0.03)
    assert recommend("llm:7b", replace(machine, gpus=[small, replace(large, device=None)])).device == "cpu"


def test_a_device_is_measured():
    pytest.importorskip("torch")
    assert 1e8 < device_bandwidth("cpu", nbytes=2**24, passes=2) < 1e13


@pytest.mark.parametrize("size", ["300m", "1b", "7b", "8b", "13b", "70B", "405b"])
def test_a_size_is_met(size):
    checkpoint = of_size(f"llm:{size}")
    count = checkpoint.nbytes / 2
    wanted = float(size[:-1]) * (1e9 if size[-1] in "bB" else 1e6)
    assert count == pytest.approx(wanted, rel=0.04)


@pytest.mark.parametrize("size", ["llm:", "llm:7", "llm:b", "llm:-7b", "llm:7bb", "llm:1m", "llm:9999b", "llm:7 b", "LLM:nanb", "llm:1e3b"])
def test_sizes_that_are_none_are_refused(size, machine):
    with pytest.raises(InvalidRequestError, match="is no size"):
        recommend(size, machine)


def test_a_model_that_is_not_there_is_refused(machine):
    with pytest.raises(ModelFileError, match="no such file or folder"):
        recommend("nowhere", machine)
