"""The same model as a folder, a GGUF file and a PyTorch checkpoint gives the same file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_model import TINY, Quantized
from torch_models import NanoGpt, randomise
from transformers import GPT2Config, GPT2LMHeadModel

import linnet
from linnet import LLM
from linnet.errors import UnsupportedModelError

ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 256, "block_size": 64, "bias": True, "vocab_size": 101, "dropout": 0.0}


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("type", ["q4_k_m", "q8_0", "iq4_xs"])
def test_a_gguf_file_gives_what_its_source_gives(type: str, tiny_in: Quantized, tmp_path: Path) -> None:
    expected = tensors(tiny_in(type))
    for source in ("F16", "F32"):
        linnet.quantize(tiny_in(source), tmp_path / f"{source}.gguf", type)
        assert tensors(tmp_path / f"{source}.gguf") == expected


def test_a_folder_with_pickled_weights_gives_the_same_file(tiny_in: Quantized, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    state = {name: torch.from_numpy(values) for name, values in load_file(TINY / "model.safetensors").items()}
    torch.save(state, folder / "pytorch_model.bin")
    linnet.quantize(folder, tmp_path / "out.gguf", "q4_k_m")
    assert (tmp_path / "out.gguf").read_bytes() == tiny_in("q4_k_m").read_bytes()


@pytest.fixture
def gpt2(tmp_path: Path) -> tuple[Path, Path]:
    """One GPT-2 as a folder of transformers and as nanoGPT saves it."""
    model = NanoGpt(ARGS)
    randomise(model)
    config = GPT2Config(vocab_size=101, n_positions=64, n_embd=256, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    theirs = GPT2LMHeadModel(config)
    state = model.state_dict()
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    theirs.load_state_dict({name: values.T if name.endswith(transposed) else values for name, values in state.items()})
    theirs.save_pretrained(tmp_path / "folder")
    torch.save({"model": state, "model_args": ARGS}, tmp_path / "ckpt.pt")
    return tmp_path / "folder", tmp_path / "ckpt.pt"


@pytest.mark.parametrize("type", ["f16", "q4_k_m"])
def test_a_torch_checkpoint_gives_the_file_of_its_folder(type: str, gpt2: tuple[Path, Path], tmp_path: Path) -> None:
    folder, checkpoint = gpt2
    of_folder = linnet.quantize(folder, tmp_path / "folder.gguf", type)
    of_checkpoint = linnet.quantize(checkpoint, tmp_path / "checkpoint.gguf", type)
    assert tensors(tmp_path / "folder.gguf") == tensors(tmp_path / "checkpoint.gguf")
    assert not any("GELU" in note for note in of_folder.notes)
    assert any("GELU" in note for note in of_checkpoint.notes)


def test_biases_that_the_architecture_wants_are_zeros(tmp_path: Path) -> None:
    """nanoGPT may have none; GPT-2 in GGUF always has them."""
    model = NanoGpt({**ARGS, "bias": False})
    randomise(model)
    torch.save({"model": model.state_dict(), "model_args": {**ARGS, "bias": False}}, tmp_path / "ckpt.pt")
    linnet.quantize(tmp_path / "ckpt.pt", tmp_path / "out.gguf", "f32")
    biases = [tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors if tensor.name.endswith("bias")]
    assert len(biases) == 2 * 6 + 1
    assert not any(tensor.data.any() for tensor in biases)
    ids = list(range(1, 40))
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    with LLM(tmp_path / "out.gguf", kv_dtype="f32") as llm:
        assert np.abs(llm.logits(ids) - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_model_without_a_tokenizer_takes_token_ids(gpt2: tuple[Path, Path], tmp_path: Path) -> None:
    report = linnet.quantize(gpt2[0], tmp_path / "out.gguf", "q8_0")
    assert any("no tokenizer" in note for note in report.notes)
    with LLM(tmp_path / "out.gguf") as llm:
        assert llm.tokenizer is None
        assert llm.logits([1, 2, 3]).shape == (3, 101)


def test_another_tokenizer(tmp_path: Path) -> None:
    """Rows that it does not reach are padding; one with more tokens than the model has rows is another model's."""
    for rows in (1400, 101):
        args = {**ARGS, "vocab_size": rows}
        torch.save({"model": NanoGpt(args).state_dict(), "model_args": args}, tmp_path / f"{rows}.pt")
    linnet.quantize(tmp_path / "1400.pt", tmp_path / "out.gguf", "q8_0", tokenizer=TINY)
    said = gguf.GGUFReader(tmp_path / "out.gguf").fields
    tokens = json.loads((TINY / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert said["tokenizer.ggml.tokens"].contents() == [*tokens, *(f"[PAD{id}]" for id in range(1328, 1400))]
    with pytest.raises(UnsupportedModelError, match="1328 tokens for a model with rows for 101"):
        linnet.quantize(tmp_path / "101.pt", tmp_path / "other.gguf", "q8_0", tokenizer=TINY)
