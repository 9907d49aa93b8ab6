"""Checkpoints in FP8 with a scale for each block, as DeepSeek V3 and Qwen 3 are published, against transformers on the values that
PyTorch reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family import VOCABULARY, Settings
from harness import ALLOWED, OP_SETS, difference, load, logits_of, random_tokens
from safetensors.torch import load_file, save_file

from linnet import convert
from linnet.errors import LinnetError, ModelFileError, UnsupportedModelError
from linnet.load.checkpoint import open_checkpoint
from linnet.load.fp8 import with_fp8_decoded
from linnet.load.safetensors import read_safetensors
from linnet.tensors import BF16
from models import FAMILIES, Draw, oracle, save

PROMPT = 45
BLOCK = (24, 40)  # divides no matrix of these
SAID: Settings = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": BLOCK}
Tensors = dict[str, torch.Tensor]


def is_quantized(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim == 2 and "_proj" in name


def values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What FP8 codes and the scales of their blocks stand for."""
    rows, columns = codes.shape
    spread = scales.repeat_interleave(BLOCK[0], 0)[:rows].repeat_interleave(BLOCK[1], 1)[:, :columns]
    return (codes.float() * spread).to(torch.bfloat16)


def published(draw: Draw, folder: Path, scale_type: torch.dtype = torch.float32) -> Any:
    """Writes a tiny model whose projections are FP8; gives the same model with their values."""
    theirs = draw.model()
    save(theirs, folder, draw.family)
    state, random = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(3)
    stored: Tensors = {}
    plain: Tensors = {}
    for name, tensor in state.items():
        if not is_quantized(name, tensor):
            stored[name] = plain[name] = tensor
            continue
        blocks = [-(-size // block) for size, block in zip(tensor.shape, BLOCK, strict=True)]
        scales = (torch.rand(blocks, generator=random) * 0.01 + 0.001).to(scale_type)
        codes = (tensor / values(torch.ones_like(tensor), scales).float()).clamp(-448, 448).to(torch.float8_e4m3fn)
        stored |= {name: codes, f"{name}_scale_inv": scales}
        plain[name] = values(codes, scales.float()).float()
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    same = type(theirs).from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    save_file(stored, folder / "model.safetensors")
    say(folder, SAID)
    return same


def say(folder: Path, quantization: Settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


@pytest.mark.parametrize("op_set", OP_SETS)
@pytest.mark.parametrize(("family", "scale_type"), [("deepseek_v3", torch.float32), ("qwen3", torch.bfloat16)])
def test_a_published_checkpoint(family: str, scale_type: torch.dtype, op_set: str, tmp_path: Path) -> None:
    theirs = published(Draw(family, "fp8", FAMILIES[family].named["plain"]), tmp_path, scale_type)
    prompt = random_tokens(PROMPT, VOCABULARY)
    assert difference(logits_of(load(tmp_path, OP_SETS[op_set](2)), prompt), oracle(theirs, prompt)) < ALLOWED[op_set]


def test_every_code(tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(2, 128)[:, :127].contiguous().view(torch.float8_e4m3fn)
    scales = torch.tensor([[0.37, 1.0, 2.5e-4, 8.0]])
    draw = Draw("qwen3", "fp8", FAMILIES["qwen3"].named["plain"])
    save(draw.model(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "x": codes, "x_scale_inv": scales}, tmp_path / "model.safetensors")
    say(tmp_path, SAID)
    with pytest.raises(ModelFileError, match=r"unexpected: x$"):
        open_checkpoint(tmp_path)
    source = with_fp8_decoded(read_safetensors(tmp_path / "model.safetensors"), BLOCK)
    read = torch.from_numpy(source.read("x").data.copy()).view(torch.bfloat16).reshape(2, 127)
    assert source.type("x") == BF16
    assert torch.equal(read, values(codes, scales))


def test_a_folder_in_bf16_is_made_of_it(tmp_path: Path) -> None:
    theirs = published(Draw("qwen3", "fp8", FAMILIES["qwen3"].named["plain"]), tmp_path / "fp8")
    convert(tmp_path / "fp8", tmp_path / "bf16", "bf16")
    state = load_file(tmp_path / "bf16" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(state[name], theirs.state_dict()[name].to(torch.bfloat16))
    assert "quantization_config" not in json.loads((tmp_path / "bf16" / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"quant_method": "gptq"}, UnsupportedModelError, "quant_method is 'gptq'; fp8 and mxfp4 run"),
        ({"fmt": "e5m2"}, UnsupportedModelError, "fmt is 'e5m2'; only e4m3 runs"),
        ({"activation_scheme": "static"}, UnsupportedModelError, "activation_scheme is 'static'; only dynamic runs"),
        ({"weight_block_size": None}, ModelFileError, "weight_block_size is 'None'; the rows and columns of a block"),
        ({"weight_block_size": [0, 128]}, ModelFileError, "weight_block_size is"),
        ({"weight_block_size": [128, 128]}, ModelFileError, "do not fit each other"),
        ({"kernel": 4}, UnsupportedModelError, r"not understood: quantization_config\.kernel = 4"),
    ],
)
def test_what_is_refused(change: Settings, error: type[LinnetError], message: str, tmp_path: Path) -> None:
    published(Draw("qwen3", "fp8", FAMILIES["qwen3"].named["plain"]), tmp_path)
    say(tmp_path, {**SAID, **change})
    with pytest.raises(error, match=message):
        open_checkpoint(tmp_path)
