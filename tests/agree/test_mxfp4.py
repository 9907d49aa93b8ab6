"""gpt-oss with its experts in MXFP4, as published, against transformers on what its own code makes of the blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family import VOCABULARY
from harness import ALLOWED_QUANTIZED, OP_SETS, ROUNDS_ACTIVATIONS, assert_agreement, load, logits_of, random_tokens
from quantized import round_inputs, through_q8_0
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from linnet.errors import ModelFileError
from linnet.load.dequantize import dequantize
from linnet.load.mxfp4 import with_blocks_joined
from linnet.load.safetensors import read_safetensors
from linnet.tensors import MXFP4
from models import FAMILIES, Draw, oracle, save

DRAW = Draw("gpt_oss", "mxfp4", FAMILIES["gpt_oss"].named["plain"])
PROMPT = 45


def drawn_blocks(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of random values and scales of about the inverse of what makes them one."""
    random = torch.Generator().manual_seed(sum(shape))
    blocks = torch.randint(0, 256, (*shape[:-1], shape[-1] // 32, 16), generator=random, dtype=torch.uint8)
    return blocks, torch.randint(121, 125, blocks.shape[:-1], generator=random, dtype=torch.uint8)


def published(folder: Path) -> Any:
    """Writes a tiny gpt-oss whose experts are MXFP4; gives the same model with their values."""
    theirs = DRAW.model()
    save(theirs, folder)
    state = load_file(folder / "model.safetensors")
    for name, parameter in theirs.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, into, out = parameter.shape
            blocks, scales = drawn_blocks(experts, out, into)
            parameter.data.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            del state[name]
            state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return theirs


@pytest.mark.parametrize("op_set", OP_SETS)
def test_a_published_checkpoint(op_set: str, tmp_path: Path) -> None:
    theirs = published(tmp_path)
    if ROUNDS_ACTIVATIONS[op_set]:
        for layer in theirs.model.layers:
            round_inputs(layer.mlp.experts, through_q8_0)
    prompt = random_tokens(PROMPT, VOCABULARY)
    ours = load(tmp_path, OP_SETS[op_set](2))
    assert_agreement(logits_of(ours, prompt), oracle(theirs, prompt), ALLOWED_QUANTIZED[op_set])


def test_blocks_hold_what_transformers_reads(tmp_path: Path) -> None:
    blocks, scales = drawn_blocks(3, 10, 96)
    save_file({"w_blocks": blocks, "other": torch.ones(2), "w_scales": scales}, tmp_path / "m.safetensors")
    source = with_blocks_joined(read_safetensors(tmp_path / "m.safetensors"))
    assert sorted(source.names()) == ["other", "w_blocks"]
    assert (source.shape("w_blocks"), source.type("w_blocks")) == ((3, 10, 96), MXFP4)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).numpy()
    for _ in range(2):
        assert (dequantize(source.read("w_blocks")) == expected).all()
        source.release("w_blocks")
    source.close()


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    blocks, scales = drawn_blocks(3, 10, 96)
    save_file({"w_blocks": blocks, "w_scales": scales[:, :9].contiguous()}, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match=r"m\.safetensors: w_blocks \[3, 10, 3, 16\] and w_scales \[3, 9, 3\] do not fit"):
        with_blocks_joined(read_safetensors(tmp_path / "m.safetensors"))
