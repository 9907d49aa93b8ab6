"""What calibration finds, beside hooks of PyTorch in transformers' own models, and what comes of it."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from family import VOCABULARY
from tiny_model import TINY

import linnet
from linnet.errors import InvalidRequestError, ModelFileError
from linnet.load.checkpoint import open_checkpoint
from linnet.quantize.gguf_model import gguf_model
from linnet.quantize.importance import calibrated, read_importance, write_importance
from linnet.text.tokenizer import Tokenizer
from models import named_draws, save

sys.path.append(str(TINY))
from corpus import documents

IDS = np.random.default_rng(3).integers(0, VOCABULARY, 150).tolist()
"""One window: the context is 160 tokens."""


def hooked(model: Any, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Mean squares of what every named module of a transformers model is given."""
    sums: dict[str, list[np.ndarray]] = {}

    def keep(name: str, inputs: Any) -> None:
        sums.setdefault(name, []).append(inputs[0].detach().reshape(-1, inputs[0].shape[-1]).numpy())

    for name, module in model.named_modules():
        if name in names:
            module.register_forward_pre_hook(lambda module, inputs, name=name: keep(name, inputs))
    with torch.no_grad():
        model(torch.tensor([IDS]))
    return {names[name]: np.mean(np.concatenate(rows).astype(np.float64) ** 2, axis=0) for name, rows in sums.items()}


IN_LAYERS = {
    "model.layers.0.self_attn.q_proj": "blk.0.attn_q.weight",
    "model.layers.1.self_attn.o_proj": "blk.1.attn_output.weight",
    "model.layers.1.mlp.up_proj": "blk.1.ffn_up.weight",
    "model.layers.1.mlp.down_proj": "blk.1.ffn_down.weight",
}
HOOKED = {
    "llama": {**IN_LAYERS, "lm_head": "output.weight"},
    "gpt2": {
        "transformer.h.1.attn.c_attn": "blk.1.attn_qkv.weight",
        "transformer.h.0.attn.c_proj": "blk.0.attn_output.weight",
        "transformer.h.1.mlp.c_proj": "blk.1.ffn_down.weight",
    },
    "gemma2": IN_LAYERS,
    "phi3": {
        "model.layers.0.self_attn.qkv_proj": "blk.0.attn_qkv.weight",
        "model.layers.1.mlp.gate_up_proj": "blk.1.ffn_up.weight",
        "model.layers.1.mlp.down_proj": "blk.1.ffn_down.weight",
    },
    "deepseek_v2": {
        "model.layers.0.self_attn.kv_a_proj_with_mqa": "blk.0.attn_kv_a_mqa.weight",
        "model.layers.1.self_attn.o_proj": "blk.1.attn_output.weight",
    },
}


@pytest.mark.parametrize("family", HOOKED)
def test_mean_squares_are_those_of_hooks_in_transformers(family: str, tmp_path: Path) -> None:
    draw = named_draws(family)[0]
    model = draw.model()
    save(model, tmp_path / "model", draw.family)
    checkpoint = open_checkpoint(tmp_path / "model")
    tensors = gguf_model(checkpoint).tensors
    found = calibrated(checkpoint, Tokenizer(TINY), IDS, tensors, 1, lambda *_: None).means()
    for name, expected in hooked(model, HOOKED[family]).items():
        assert found[name].shape == expected.shape
        assert np.allclose(found[name], expected, rtol=1e-3, atol=1e-6 * expected.max()), name
    assert "token_embd.weight" not in found  # the first layer reads its rows, too, where it is the output matrix


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_experts_are_observed_one_by_one(family: str, tmp_path: Path) -> None:
    """Each expert's rows alone: together they are what the whole block was given, once for each choice."""
    draw = named_draws(family)[0]
    save(draw.model(), tmp_path / "model", draw.family)
    checkpoint = open_checkpoint(tmp_path / "model")
    tensors = gguf_model(checkpoint).tensors
    found = calibrated(checkpoint, Tokenizer(TINY), IDS, tensors, 1, lambda *_: None)
    moe: Any = checkpoint.spec.layers[1].mlp
    router, up, down = (f"blk.1.ffn_{name}.weight" for name in ("gate_inp", "up_exps", "down_exps"))
    assert router not in found.sums  # it is never quantized
    assert found.sums[up].shape[0] == found.sums[down].shape[0] == moe.experts
    assert found.counts[up].sum() == found.counts[down].sum() == len(IDS) * moe.router.active
    assert (found.sums[down].sum(axis=1) > 0).tolist() == (found.counts[down] > 0).tolist()
    assert found.means()[up].shape == (moe.experts, checkpoint.spec.hidden)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("".join(islice(documents(77), 200)), "utf-8")
    return path


def weighed_error(path: Path, importance: dict[str, np.ndarray]) -> float:
    """Sum over the layers' matrices of squared errors, each column's times its importance, in a file decoded by the `gguf` package."""
    source = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path.with_name("f32.gguf")).tensors}
    total = 0.0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.startswith("blk.") and tensor.name in importance:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            total += float(((values - source[tensor.name]) ** 2 @ importance[tensor.name]).sum())
    return total


@pytest.mark.parametrize("type", ["q4_k", "q2_k", "iq4_nl"])
def test_calibration_spends_the_same_bits_where_they_count(type: str, text: Path, tmp_path: Path) -> None:
    linnet.quantize(TINY, tmp_path / "f32.gguf", "f32")
    linnet.quantize(TINY, tmp_path / "plain.gguf", type, pure=True)
    kept = tmp_path / "importance.gguf"
    linnet.quantize(TINY, tmp_path / "weighed.gguf", type, pure=True, calibrate=text, special=True, save_importance=kept)
    linnet.quantize(TINY, tmp_path / "again.gguf", type, pure=True, importance=kept)
    importance = read_importance(kept, gguf_model(open_checkpoint(TINY)).tensors)
    assert (tmp_path / "weighed.gguf").stat().st_size == (tmp_path / "plain.gguf").stat().st_size
    assert weighed_error(tmp_path / "weighed.gguf", importance) < 0.95 * weighed_error(tmp_path / "plain.gguf", importance)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "weighed.gguf").read_bytes()


def test_the_file_of_importances_is_an_imatrix(text: Path, tmp_path: Path) -> None:
    linnet.quantize(TINY, tmp_path / "out.gguf", "q4_k", calibrate=text, calibration_tokens=700, save_importance=tmp_path / "i.gguf")
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.type"] == "imatrix"
    assert said["imatrix.datasets"] == [str(text)]
    assert said["imatrix.chunk_count"] == 2
    arrays = {tensor.name: tensor.data for tensor in reader.tensors}
    assert arrays["blk.0.ffn_down.weight.counts"].ravel().tolist() == [700]
    assert arrays["blk.0.ffn_down.weight.in_sum2"].shape == (1, 768)
    with pytest.raises(ModelFileError, match=r"general\.type is 'imatrix'"):
        linnet.LLM(tmp_path / "i.gguf")


def test_importances_of_another_model_are_refused(tmp_path: Path) -> None:
    draw = named_draws("llama")[0]
    save(draw.model(), tmp_path / "model", draw.family)
    checkpoint = open_checkpoint(tmp_path / "model")
    found = calibrated(checkpoint, Tokenizer(TINY), IDS, gguf_model(checkpoint).tensors, 1, lambda *_: None)
    write_importance(tmp_path / "i.gguf", found, "random")
    assert read_importance(tmp_path / "i.gguf", gguf_model(checkpoint).tensors).keys() == found.sums.keys()
    with pytest.raises(InvalidRequestError, match="it is of another model"):
        linnet.quantize(TINY, tmp_path / "out.gguf", "q4_k", importance=tmp_path / "i.gguf")
    linnet.quantize(TINY, tmp_path / "f16.gguf", "f16")
    with pytest.raises(InvalidRequestError, match="has nothing for any tensor"):
        linnet.quantize(TINY, tmp_path / "out.gguf", "q4_k", importance=tmp_path / "f16.gguf")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        linnet.quantize(TINY, tmp_path / "out.gguf", "q4_k", importance=TINY / "config.json")
    assert not (tmp_path / "out.gguf").exists()
