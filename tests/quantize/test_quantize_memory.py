"""How much memory a model takes while it is quantized: some pieces of it, however large it is."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from tiny_model import TINY

HIDDEN, INNER, LAYERS, VOCABULARY = 1024, 4096, 12, 512
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MOST = 120 * 2**20
"""Less than a third of the model: what is read, what is encoded and what waits to be written, on two threads."""


def write_zeros(folder: Path) -> int:
    """A model of zeros in a file without blocks on disk; gives the bytes of its tensors."""
    shapes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(LAYERS):
        place = f"model.layers.{layer}."
        shapes |= {place + "input_layernorm": (HIDDEN,), place + "post_attention_layernorm": (HIDDEN,)}
        shapes |= {f"{place}self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{place}mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[place + "mlp.down_proj"] = (HIDDEN, INNER)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[f"{name}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return end


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be set back on Linux alone")
def test_a_model_passes_in_pieces(tmp_path: Path) -> None:
    """In a process that has quantized before, so that what any run needs is in memory already."""
    assert write_zeros(tmp_path) > 3 * MOST
    script = f"""
import linnet
from linnet.bench.machine import peak_memory, reset_peak_memory
linnet.quantize({str(TINY)!r}, {str(tmp_path / "tiny.gguf")!r}, "q4_0")
reset_peak_memory()
before = peak_memory()
linnet.quantize({str(tmp_path)!r}, {str(tmp_path / "out.gguf")!r}, "q4_0", threads=2)
print(peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST
