"""Folders that transformers loads, with the logits and the tokenizer of the model that they were made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_export import export
from safetensors import safe_open
from tiny_model import TINY, Quantized
from torch_models import NanoGpt, Tutorial, randomise
from transformers import AutoModelForCausalLM, AutoTokenizer

import linnet
from linnet import LLM, Tokenizer
from linnet.arch.hf_config import CONVERTED
from linnet.errors import InvalidRequestError, UnsupportedModelError
from linnet.load.checkpoint import open_checkpoint
from linnet.quantize.atomic import whole_folder
from models import FAMILIES, Draw, named_draws, save

CHAT = [{"role": "user", "content": "What is 17 + 25?"}]
IDS = np.random.default_rng(0).integers(0, 101, 60).tolist()
WRITTEN = {
    "arcee": "arcee",
    "bloom": "bloom",
    "chatglm2": "glm",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "ernie4_5": "ernie4_5",
    "exaone": "llama",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "granite": "granite",
    "hunyuan_v1_dense": "hunyuan_v1_dense",
    "internlm2": "llama",
    "llama": "llama",
    "mixtral": "mixtral",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "olmo2": "olmo2",
    "phi": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
"""What transformers calls what each family becomes. (Mistral's files are called Llama's in GGUF.)"""


def test_every_family_that_is_converted_is_tried() -> None:
    assert {*WRITTEN.values(), "ministral3", "mistral", "olmo3"} == set(CONVERTED)


def logits_of(folder: Path) -> np.ndarray:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor([IDS])).logits[0])


def check_logits(draw: Draw, tmp_path: Path) -> None:
    """From the family's own folder to GGUF and back."""
    model = draw.model()
    save(model, tmp_path / "folder", draw.family)
    checkpoint = open_checkpoint(tmp_path / "folder")
    architecture = "mistral3" if checkpoint.spec.family == "ministral3" else str(FAMILIES[draw.family].gguf)
    export(checkpoint, tmp_path / "model.gguf", architecture)
    report = linnet.convert(tmp_path / "model.gguf", tmp_path / "out", "f32")
    assert report.model_type == json.loads((tmp_path / "out" / "config.json").read_text())["model_type"]
    with torch.no_grad():
        expected = np.asarray(model(torch.tensor([IDS])).logits[0])
    assert np.abs(logits_of(tmp_path / "out") - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("family", WRITTEN)
def test_transformers_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    check_logits(named_draws(family)[0], tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == WRITTEN[family]


@pytest.mark.parametrize(
    "name",
    [
        "llama-yarn",
        "llama-llama3",
        "phi3-long",
        "mixtral-window",
        "olmo2-third",
        "cohere2-published",
        "exaone4-listed",
        "mistral-temp",
    ],
)
def test_scalings_and_windows(name: str, tmp_path: Path) -> None:
    family = name.partition("-")[0]
    draws = [draw for draw in named_draws(family) if str(draw).startswith(name)]
    assert draws, [str(draw) for draw in named_draws(family)]
    check_logits(draws[0], tmp_path)


def test_the_built_in_model_there_and_back(tiny_in: Quantized, tmp_path: Path) -> None:
    """Tokenizer and chat template too; a block type comes back as the floats that it stands for."""
    linnet.convert(tiny_in("Q8_0"), tmp_path / "folder", "f32")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    ours = Tokenizer(tiny_in("Q8_0"))
    prompt = ours.apply_chat_template(CHAT)
    assert list(theirs.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]) == prompt
    for text in ("Where is the drum? 17 + 25 = 42", "农夫山泉 550ml\n", " two  spaces"):
        assert theirs(text)["input_ids"] == ours.encode(text)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    with torch.no_grad():
        expected = np.asarray(model(torch.tensor([prompt])).logits[0])
    options: Any = {"ops": "reference", "kv_dtype": "f32"}
    with LLM(tiny_in("Q8_0"), **options) as source, LLM(tmp_path / "folder", **options) as folder:
        for llm in (source, folder):
            assert np.abs(llm.logits(prompt) - expected).max() < 1e-4 * np.abs(expected).max()
        assert folder.chat(CHAT).text.endswith("17 + 25 = 42")
    linnet.quantize(tmp_path / "folder", tmp_path / "again.gguf", "q8_0")
    assert linnet.inspect_model(tmp_path / "again.gguf").parameters == linnet.inspect_model(tiny_in("Q8_0")).parameters


@pytest.mark.parametrize(("dtype", "name"), [("f16", "F16"), ("bf16", "BF16"), ("f32", "F32")])
def test_dtypes(dtype: str, name: str, tmp_path: Path) -> None:
    linnet.convert(TINY, tmp_path / "out", dtype)
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file, safe_open(TINY / "model.safetensors", "pt") as source:
        names = list(file.keys())
        assert {file.get_slice(key).get_dtype() for key in names} == {name}
        assert sorted(names) == sorted(source.keys())
    kept = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}[dtype]


def test_a_nanogpt_checkpoint(tmp_path: Path) -> None:
    args = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 64, "bias": True, "vocab_size": 101, "dropout": 0.0}
    model = NanoGpt(args)
    randomise(model)
    torch.save({"model": model.state_dict(), "model_args": args}, tmp_path / "ckpt.pt")
    report = linnet.convert(tmp_path / "ckpt.pt", tmp_path / "out", "f32")
    assert report.model_type == "gpt2"
    with torch.no_grad():
        expected = np.asarray(model(torch.tensor([IDS]))[0])
    assert np.abs(logits_of(tmp_path / "out") - expected).max() < 1e-5 * np.abs(expected).max()


def test_what_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidRequestError, match="dtype is 'q8_0'"):
        linnet.convert("tiny", out, "q8_0")
    linnet.convert("tiny", out)
    with pytest.raises(InvalidRequestError, match="exists already; --force"):
        linnet.convert("tiny", out)
    linnet.convert("tiny", out, "f32", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidRequestError, match="is no model's folder"):
        linnet.convert("tiny", tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    linnet.convert("tiny", tmp_path / "folder")
    for model in (tmp_path / "folder", tmp_path / "folder" / "model.gguf"):
        if model.suffix:
            linnet.quantize(tmp_path / "folder", model, "q8_0")
        with pytest.raises(InvalidRequestError, match="OUT would take the place of MODEL"):
            linnet.convert(model, tmp_path / "folder", force=True)


def test_a_folder_that_is_closed_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system answers who is not root."""
    out = tmp_path / "out"
    linnet.convert("tiny", out)

    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as unreadable:
        unreadable.setattr(os, "listdir", refuse)
        for force in (False, True):
            with pytest.raises(InvalidRequestError, match=r"out: exists already and cannot be looked into \(Permission denied\); choose"):
                linnet.convert("tiny", out, force=force)
    with monkeypatch.context() as unwritable:
        unwritable.setattr(os, "access", lambda path, mode: Path(path) != out)
        with pytest.raises(InvalidRequestError, match="out: exists already and may not be changed"):
            linnet.convert("tiny", out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_comes_during_the_run_stays(tmp_path: Path) -> None:
    def come(*_: object) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "config.json").write_text("theirs")

    with pytest.raises(InvalidRequestError, match=r"in the meantime; --force"):
        linnet.convert("tiny", tmp_path / "out", progress=come)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "config.json"]
    linnet.convert("tiny", tmp_path / "out", progress=come, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_folder_that_is_being_replaced_is_never_lost(error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C can come between the two renames that replace it."""
    out, rename = tmp_path / "out", os.rename
    out.mkdir()
    (out / "config.json").write_text("theirs")

    def failing(source: Path, target: Path) -> None:
        if (Path(source) / "new").exists():
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises((error, InvalidRequestError)), whole_folder(out, force=True) as folder:
        (folder / "new").write_text("ours")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "config.json"]
    assert (out / "config.json").read_text() == "theirs"


def test_a_family_that_transformers_has_no_words_for(tmp_path: Path) -> None:
    parameters = {"d_model": 24, "num_heads": 3, "num_blocks": 2, "context_length": 32, "max_token_value": 61, "dropout": 0.1}
    torch.save({"h_params": parameters, "model_state_dict": Tutorial(parameters).state_dict()}, tmp_path / "model.ckpt")
    with pytest.raises(UnsupportedModelError, match="transformers has no words for this model"):
        linnet.convert(tmp_path / "model.ckpt", tmp_path / "other")
    assert not (tmp_path / "other").exists()
