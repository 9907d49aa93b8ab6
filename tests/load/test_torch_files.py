"""Files of torch.save that are none, are damaged, or hold more than tensors: refused by name, and nothing of them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_models import NanoGpt, Tutorial

from linnet import LLM, SamplingParams
from linnet.errors import InvalidRequestError, MissingDependencyError, ModelFileError, UnsupportedModelError
from linnet.load.checkpoint import open_checkpoint
from linnet.load.pickles import read_pickle
from linnet.load.torch_file import load_torch_file

H_PARAMS = {"d_model": 12, "num_heads": 2, "num_blocks": 1, "context_length": 8, "max_token_value": 11}
NANOGPT = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "bias": True, "vocab_size": 11, "dropout": 0.0}
NANOCHAT = {"sequence_len": 8, "vocab_size": 11, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 8}


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class Settings:
    """As checkpoints have them that were saved with the class of their configuration."""


def tutorial(**changed: Any) -> dict[str, Any]:
    return {"h_params": H_PARAMS | changed, "model_state_dict": Tutorial(H_PARAMS).state_dict()}


def nanogpt(**changed: Any) -> dict[str, Any]:
    return {"model": NanoGpt(NANOGPT).state_dict(), "config": NANOGPT | changed}


# ---- pickles of other things


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_nothing_that_a_pickle_names_is_called(new_format: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.ckpt"
    torch.save(tutorial() | {"note": Canary(canary)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        ModelFileError, match=r"model\.ckpt: its pickle names '(posix|nt)\.mkdir', but only tensors .* nothing of it was run"
    ):
        open_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Settings(), "test_torch_files.Settings"),
        (Path("/x"), "pathlib.PosixPath"),
        (np.float64(2.5), "multiarray.scalar"),
        (np.zeros(3), "multiarray._reconstruct"),
        ({1, 2}, "__builtin__.set"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (torch.zeros(3, 3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_what_is_no_tensor_and_no_plain_value_is_named(value: Any, name: str, tmp_path: Path) -> None:
    torch.save(tutorial() | {"extra": value}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=rf"names '[\w.]*{name}'"):
        open_checkpoint(tmp_path / "model.pt")


def test_pickled_hugging_face_weights_are_looked_at_too(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"transformer.wte.weight": Canary(tmp_path / "canary")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: its pickle names"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_plain_values_of_every_kind_are_read_as_pickle_reads_them() -> None:
    shared = ["x", 1.5]
    value = {
        "a": [1, -3, 2**40, 2**70, None, True, False],
        "b": (),
        "c": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "d": {},
        b"e": b"\xff" * 300,
    }
    value |= {"f": "é" * 300, "g": [shared, shared], 5: list(range(2000)), "h": {str(i): i for i in range(2000)}, 1.5: 2}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        assert read_pickle(io.BytesIO(pickle.dumps(value, protocol)), "x", (), "plain values") == value
    del value[b"e"]  # before protocol 3, bytes are a call of _codecs.encode
    for protocol in range(3):
        assert read_pickle(io.BytesIO(pickle.dumps(value, protocol)), "x", (), "plain values") == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"hello",
        b"\x80\x04",
        b"(((((.",
        b"]]s.",
        b"}(K\x01K\x02K\x03u.",
        b"K\x01K\x02a.",
        b"h\x05.",
        b"K\x01)R.",
        b"}}}s.",
        b"}(]K\x01u.",
        b"\x8d" + b"\xff" * 8 + b"x.",
        b"\x96" + b"\xff" * 7 + b"\x0fx.",
        b"\x95" + b"\xff" * 8 + b".",
        b"r\xff\xff\xff\xff.",
        b"I12x\n.",
        b"(" * 1000 + b"t" * 999 + b"}\x85s.",
        b"\x82\x01.",
    ],
)
def test_malformed_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="x: not a pickle of plain values"):
        read_pickle(io.BytesIO(data), "x", (), "plain values")


# ---- files that are damaged or of another kind


def rezipped(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for part, data in parts.items():
            if (changed := change(part, data)) is not None:
                archive.writestr(part, changed)


def damaged(kind: str, path: Path) -> None:
    torch.save(tutorial(), path)
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "text":
        path.write_text("hello, I am a model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "compressed":
        rezipped(path, lambda _, part: part, zipfile.ZIP_DEFLATED)
    elif kind == "without a pickle":
        rezipped(path, lambda name, part: None if name.endswith("data.pkl") else part)
    elif kind == "a pickle cut short":
        rezipped(path, lambda name, part: part[:-40] if name.endswith("data.pkl") else part)
    elif kind == "a storage cut short":
        rezipped(path, lambda name, part: part[:-4] if name.endswith("data/3") else part)
    elif kind == "a storage missing":
        rezipped(path, lambda name, part: None if name.endswith("data/3") else part)
    elif kind == "legacy cut short":
        torch.save(tutorial(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "legacy cut in its pickles":
        torch.save(tutorial(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "not a whole zip archive"),
        ("text", "not a file of torch.save"),
        ("empty", "the file is empty"),
        ("compressed", "compressed or oversized"),
        ("without a pickle", "not of torch.save"),
        ("a pickle cut short", "not a pickle of plain values"),
        ("a storage cut short", "the storage 'model/data/3' has .* bytes, not"),
        ("a storage missing", "the storage 'model/data/3' is missing"),
        ("legacy cut short", "PyTorch cannot read it"),
        ("legacy cut in its pickles", "not a pickle of plain values"),
    ],
)
def test_a_damaged_file_is_named(kind: str, message: str, tmp_path: Path) -> None:
    damaged(kind, tmp_path / "model.ckpt")
    with pytest.raises(ModelFileError, match=rf"model\.ckpt.*{message}"):
        open_checkpoint(tmp_path / "model.ckpt")


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(2)), tmp_path / "model.pt")
    with pytest.raises(UnsupportedModelError, match="TorchScript archive, which holds code"):
        open_checkpoint(tmp_path / "model.pt")


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    saved = nanogpt()
    saved["model"]["transformer.wte.weight"] = torch.zeros(1, 1).expand(1_000_000, 1_000_000)
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(ModelFileError, match=r"'transformer.wte.weight' of shape \[1000000, 1000000\] has 4 bytes, not 4000000000000"):
        open_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("saved", "error", "message"),
    [
        ([1, 2], UnsupportedModelError, "holds a list, no checkpoint"),
        ({"weight": torch.zeros(2)}, UnsupportedModelError, r"does not say what model it is \(it has weight\).*from_state_dict"),
        ({"model": torch.zeros(2), "config": NANOGPT}, ModelFileError, "model: a Tensor; a mapping from names to tensors"),
        ({"model": {"a": 3}, "config": NANOGPT}, UnsupportedModelError, "'a' is a int"),
        ({"model": {"module.a": torch.zeros(2), "a": torch.zeros(2)}, "config": NANOGPT}, ModelFileError, "two tensors have one name"),
        ({"model": {}}, ModelFileError, "config is missing"),
        ({"model_state_dict": {}}, ModelFileError, r"h_params is missing; it has model_state_dict"),
        ({"h_params": H_PARAMS}, ModelFileError, "model_state_dict is missing"),
        ({"h_params": 5, "model_state_dict": {}}, ModelFileError, "h_params: a table of settings was expected, not int"),
        (nanogpt() | {"tokenizer_path": 5}, ModelFileError, "tokenizer_path is no path"),
        (nanogpt(flash=True), UnsupportedModelError, "config: not understood: flash = True"),
        (nanogpt(n_head=3), ModelFileError, r"config: n_head is '3'; a divisor of n_embd \(8\)"),
        (nanogpt(experts={"a": 1}), ModelFileError, "config: experts is a dict; a number, a text or a flag"),
        (nanogpt(bias=False), ModelFileError, r"unexpected: transformer.h.0.ln_1.bias"),
        (tutorial(d_model="80"), ModelFileError, "h_params: d_model is '80'"),
        (tutorial(num_heads=5), ModelFileError, r"h_params: num_heads is '5'; a divisor of d_model \(12\)"),
        (tutorial(rotary_theta=1e4), UnsupportedModelError, "not understood: rotary_theta"),
    ],
)
def test_checkpoints_that_say_too_little_or_too_much(saved: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "model.pth")
    with pytest.raises(error, match=rf"model\.pth.*{message}"):
        open_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("key", H_PARAMS)
def test_a_missing_h_param_is_named_with_the_file(key: str, tmp_path: Path) -> None:
    saved = tutorial()
    del saved["h_params"][key]
    torch.save(saved, tmp_path / "model.ckpt")
    with pytest.raises(ModelFileError, match=rf"model\.ckpt: h_params: {key} is missing"):
        open_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "block_size", "vocab_size"])
def test_a_missing_key_of_nanogpt_is_named_with_the_file(key: str, tmp_path: Path) -> None:
    saved = nanogpt()
    del saved["config"][key]
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(ModelFileError, match=rf"ckpt\.pt: config: {key} is missing"):
        open_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (tutorial(d_model=16), r"mha.heads.0.Wq.weight is \[6, 12\], not \[8, 16\]"),
        (tutorial(num_heads=3), "missing: .*mha.heads.2.Wq.weight"),
        (tutorial(num_heads=1), r"unexpected: .*mha.heads.1.Wq.weight.*mha.heads.0.Wq.weight is \[6, 12\], not \[12, 12\]"),
        (tutorial(num_blocks=2), "missing: .*transformer_blocks.1.mha.heads.0.Wq.weight"),
        (tutorial(max_token_value=10), r"model_out_linear_layer.weight is \[11, 12\], not \[10, 12\]"),
        (nanogpt(block_size=9), r"transformer.wpe.weight is \[8, 8\], not \[9, 8\]"),
        (nanogpt(vocab_size=12), r"transformer.wte.weight is \[11, 8\], not \[12, 8\]"),
    ],
)
def test_a_shape_that_contradicts_the_configuration_is_named(saved: Any, message: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "model_config: a table of settings was expected"),
        ({"model_config": {}}, "model_config: n_embd is missing"),
        ({"model_config": NANOCHAT | {"window_pattern": "SX"}}, "window_pattern is 'SX'; letters S and L"),
        ({"model_config": NANOCHAT | {"n_layer": 2}}, "missing: transformer.h.1"),
        ({"model_config": NANOCHAT | {"vocab_size": 100}}, r"transformer.wte.weight is \[64, 8\], not \[100, 8\]"),
        ({"model_config": NANOCHAT | {"use_mamba": True}}, "not understood: use_mamba"),
    ],
)
def test_nanochats_that_contradict_themselves(meta: Any, message: str, tmp_path: Path) -> None:
    from torch_models import Generation, NanoChat

    torch.save(NanoChat(NANOCHAT, Generation()).state, tmp_path / "model_000010.pt")
    (tmp_path / "meta_000010.json").write_text(json.dumps(meta))
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(tmp_path)
    (tmp_path / "meta_000010.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"nanochat's needs its meta_<step>\.json beside it"):
        open_checkpoint(tmp_path)


def test_value_gates_of_no_known_width_are_refused(tmp_path: Path) -> None:
    from torch_models import Generation, NanoChat

    torch.save(NanoChat(NANOCHAT | {"n_embd": 32}, Generation(gates=20)).state, tmp_path / "model_000010.pt")
    (tmp_path / "meta_000010.json").write_text(json.dumps({"model_config": NANOCHAT | {"n_embd": 32}}))
    with pytest.raises(UnsupportedModelError, match="value gates on 20 columns; nanochat has had 12 and 32"):
        open_checkpoint(tmp_path)


def test_a_token_id_outside_the_embedding_is_refused(tmp_path: Path) -> None:
    torch.save(tutorial(), tmp_path / "model.ckpt")
    with (
        LLM(tmp_path / "model.ckpt", ops="reference") as llm,
        pytest.raises(InvalidRequestError, match=r"token id 11 .* 11 embedding rows"),
    ):
        llm.generate([1, 11], SamplingParams(max_tokens=1))


@pytest.mark.parametrize("overflow", ["slide", "error"])
def test_what_happens_past_the_context_can_be_said(overflow: str, tmp_path: Path) -> None:
    torch.save(tutorial(), tmp_path / "model.ckpt")
    with LLM(tmp_path / "model.ckpt", ops="reference", overflow=overflow) as llm:
        if overflow == "slide":
            assert len(llm.generate([1, 2], SamplingParams(max_tokens=20, ignore_eos=True))[0].token_ids) == 20
        else:
            with pytest.raises(InvalidRequestError, match="together 22, and the context holds 8"):
                llm.generate([1, 2], SamplingParams(max_tokens=20))


# ---- PyTorch itself


def test_without_pytorch_the_message_is_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(tutorial(), tmp_path / "model.ckpt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "linnet\[torch\]"'):
        open_checkpoint(tmp_path / "model.ckpt")


def test_a_pytorch_whose_weights_only_can_be_led_to_run_code_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(tutorial(), tmp_path / "model.ckpt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(MissingDependencyError, match=r"2\.5\.1\+cpu is not safe .* pip install -U 'torch>=2\.6'"):
        open_checkpoint(tmp_path / "model.ckpt")


def test_every_load_is_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(options) or load(*args, **options))
    for new_format in (True, False):
        torch.save(tutorial(), tmp_path / "model.ckpt", _use_new_zipfile_serialization=new_format)
        load_torch_file(tmp_path / "model.ckpt")
    assert [(call["weights_only"], call["mmap"]) for call in calls] == [(True, True), (True, False)]
