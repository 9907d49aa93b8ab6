"""Closing gives memory back, and what is in use can be asked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import linnet

_PROGRAM = """
import json, pathlib, sys
from linnet import LLM, SamplingParams, memory_usage
from linnet.load.random_weights import open_random
from linnet.tensors import TYPES
def run(checkpoint):
    llm = LLM.from_checkpoint(checkpoint, ops=sys.argv[2])
    llm.generate([[1, 2, 3] * 20], SamplingParams(max_tokens=2))
    most = memory_usage()
    llm.close()
    return most, llm  # which stays alive
run(open_random("tiny"))
before = memory_usage()
kept, used = [], []
for _ in range(10):
    most, llm = run(open_random(sys.argv[1], TYPES["q8_0"]))
    kept.append(llm)
    used.append((most, memory_usage()))
print(json.dumps([before, used]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is given back is glibc's to say")
@pytest.mark.parametrize("ops", ["native", pytest.param("torch", marks=pytest.mark.slow)])
def test_closing_gives_memory_back_ten_times_over(tmp_path, ops):
    import json

    if ops == "torch":
        pytest.importorskip("torch")
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16}
    config = {"model_type": "llama", "vocab_size": 8000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path), ops], capture_output=True, text=True, check=True)
    before, used = json.loads(done.stdout)
    for most, after in used:
        assert most > before + 80 * 2**20  # there is something to give back
        assert after <= max(1.05 * before, before + 32 * 2**20)


def test_usage_is_what_the_process_holds():
    linnet.clear_memory_cache()  # or what earlier tests have freed is taken again, which the process has still
    before = linnet.memory_usage()
    held = np.ones(2**23)
    assert linnet.memory_usage("cpu") - before >= 0.9 * held.nbytes
    del held
    linnet.clear_memory_cache()
    assert linnet.memory_usage() - before < 2**25


@pytest.mark.parametrize("ask", [linnet.memory_usage, linnet.clear_memory_cache])
def test_devices_that_are_not_there_are_refused(ask):
    with pytest.raises(linnet.InvalidRequestError, match="'gpu' is not one of"):
        ask("gpu")
    pytest.importorskip("torch")
    with pytest.raises(linnet.InvalidRequestError, match="device 'cuda:99'"):
        ask("cuda:99")
