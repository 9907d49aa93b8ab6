"""low_memory=True: weights stay where the file maps them, the cache is q8_0, and the answers are those of packed weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "load"))

PROGRAM = """
import json, sys
from linnet import LLM, SamplingParams

def anonymous():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))

params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
with LLM("tiny") as tiny:  # whatever the library takes once
    tokenizer = tiny.tokenizer
    tiny.generate([[1, 2]], params)
before = anonymous()
with LLM(sys.argv[1], tokenizer=tokenizer, context=256, max_batch=1, **json.loads(sys.argv[2])) as llm:
    completion = llm.generate([list(range(3, 103))], params)[0]
    print(json.dumps([completion.token_ids, anonymous() - before]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """34 million weights, 36 MB in q8_0."""
    import torch
    from gguf_files import write_gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4, "num_attention_heads": 12}
    config = LlamaConfig(vocab_size=1328, max_position_embeddings=256, tie_word_embeddings=True, **sizes)
    return write_gguf(tmp_path_factory.mktemp("low_memory") / "model.gguf", LlamaForCausalLM(config), "q8_0")


def run(model: Path, **options: Any) -> tuple[list[int], int]:
    """The tokens, and the anonymous memory that opening and running the model took."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(model), json.dumps(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens, taken = json.loads(done.stdout)
    return tokens, taken


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for its memory")
def test_weights_take_no_memory_of_their_own(model: Path) -> None:
    tokens, taken = run(model, low_memory=True)
    packed_tokens, packed = run(model, kv_dtype="q8_0")
    assert tokens == packed_tokens
    assert packed > model.stat().st_size
    assert taken < packed - 0.9 * model.stat().st_size
