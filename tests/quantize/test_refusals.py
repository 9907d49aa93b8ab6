"""What is refused, what is left behind (nothing), and what is said."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import TINY, Quantized
from torch_models import NanoGpt, Tutorial

import linnet
from linnet.errors import InvalidRequestError, ModelFileError, UnsupportedModelError
from linnet.load.gguf import read_gguf


def refused(tmp_path: Path, *arguments: object, match: str, model: object = TINY, **options: object) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        linnet.quantize(model, tmp_path / "out.gguf", *arguments, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with pytest.raises(InvalidRequestError, match="exists already; --force"):
        linnet.quantize("tiny", out, "q4_0")
    assert out.read_text() == "mine"
    linnet.quantize(TINY, out, "q4_0", force=True)
    assert out.read_bytes()[:4] == b"GGUF"
    assert [file.name for file in tmp_path.iterdir()] == ["out.gguf"]


def test_outputs_that_exist_beside_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One and two are three. " * 20)
    for name, option in (("i.gguf", "save_importance"), ("p.png", "plot")):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InvalidRequestError, match=rf"{name}: exists already; --force"):
            linnet.quantize(TINY, tmp_path / "out.gguf", "q4_0", calibrate=text, **{option: tmp_path / name})  # type: ignore[arg-type]
        assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "out.gguf").exists()
    options: Any = {"calibrate": text, "save_importance": tmp_path / "i.gguf", "plot": tmp_path / "p.png", "force": True}
    linnet.quantize(TINY, tmp_path / "out.gguf", "q4_0", **options)
    assert (tmp_path / "i.gguf").read_bytes()[:4] == b"GGUF"
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "i.gguf", "p.png", "out.gguf"}


def test_every_output_has_a_place_of_its_own(tmp_path: Path) -> None:
    """However it is written, with --force too, and apart from what is read."""
    text = tmp_path / "text.txt"
    text.write_text("One and two are three. " * 20)
    (tmp_path / "link").symlink_to(tmp_path)
    same = tmp_path / "link" / ".." / tmp_path.name / "out.png"
    for force in (False, True):
        with pytest.raises(InvalidRequestError, match="OUT and plot are both"):
            linnet.quantize(TINY, tmp_path / "out.png", "q4_0", plot=same, force=force)
    with pytest.raises(InvalidRequestError, match="OUT and save_importance are both"):
        linnet.quantize(TINY, tmp_path / "a", "q4_0", calibrate=text, save_importance=tmp_path / "a")
    with pytest.raises(InvalidRequestError, match="save_importance would take the place of calibrate"):
        linnet.quantize(TINY, tmp_path / "a", "q4_0", calibrate=text, save_importance=text, force=True)
    with pytest.raises(InvalidRequestError, match="OUT would take the place of eval_text"):
        linnet.quantize(TINY, text, "q4_0", eval_text=text, force=True)
    linnet.quantize(TINY, tmp_path / "a", "q8_0")
    with pytest.raises(InvalidRequestError, match="OUT would take the place of MODEL"):
        linnet.quantize(tmp_path / "a", tmp_path / "a", "q4_0", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "link", "a"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_during_the_run_stays(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.gguf"

    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:  # as file systems without hard links answer
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InvalidRequestError, match=r"in the meantime; --force"):
        linnet.quantize(TINY, out, "q4_0", progress=lambda *_: out.write_text("theirs"))
    assert out.read_text() == "theirs"
    linnet.quantize(TINY, out, "q4_0", progress=lambda *_: out.write_text("theirs"), force=True)
    assert out.read_bytes()[:4] == b"GGUF"
    out.unlink()
    linnet.quantize(TINY, out, "q4_0")
    assert out.read_bytes()[:4] == b"GGUF"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"the folder .* does not exist"):
        linnet.quantize("tiny", tmp_path / "none" / "out.gguf", "q4_0")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidRequestError, match="is a folder"):
        linnet.quantize("tiny", tmp_path / "folder", "q4_0", force=True)


@pytest.mark.parametrize(
    ("type", "near"), [("q4_x", "Q4_K"), ("Q9_0", "Q8_0"), ("iq4", "IQ4_XS"), ("fp16", "F16"), ("", "there are F32"), ("IQ2_XXS", "IQ4_XS")]
)
def test_unknown_types_are_answered_with_the_nearest(type: str, near: str, tmp_path: Path) -> None:
    refused(tmp_path, type, match=near)


def test_options_that_contradict_each_other_or_mean_nothing(tmp_path: Path) -> None:
    refused(tmp_path, match="give a type or bits")
    refused(tmp_path, "q4_0", bits=4, match="give a type or bits")
    refused(tmp_path, bits=3, match="bits is 3; there are 2")
    refused(tmp_path, "q4_0", tensor_types={"attn_z": "q8_0"}, match="'attn_z' matches no matrix")
    refused(tmp_path, "q4_0", tensor_types={"attn_(": "q8_0"}, match="no regular expression")
    refused(tmp_path, "q4_0", tensor_types={"attn_v": "q8"}, match="did you mean Q8_0")
    refused(tmp_path, "q4_0", output_type="q7_k", match="output_type is 'q7_k'")
    refused(tmp_path, "q4_0", threads=0, match="threads is 0")
    refused(tmp_path, "q4_0", save_importance=tmp_path / "x", match="give calibrate")
    refused(tmp_path, "q4_0", eval_text=tmp_path / "none.txt", match=r"eval_text .* cannot be read")
    refused(tmp_path, "q4_0", calibrate=tmp_path / "none.txt", match=r"calibrate .* cannot be read")
    refused(tmp_path, "q4_0", plot=tmp_path / "x.svg", match=r"ends in \.png")
    refused(tmp_path, "q4_0", calibration_tokens=100, match="calibration_tokens says .* give calibrate, too")
    refused(tmp_path, "q4_0", eval_tokens=100, match="eval_tokens says .* give eval_text, too")
    refused(tmp_path, "q4_0", model="tiny", special=True, match="special is of the texts .* leave special out")
    refused(tmp_path, "q4_0", output_type="q8_0", embedding_type="f16", match=r"token_embd\.weight is both")


def test_importances_that_no_type_would_heed(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.gguf"
    text.write_text("One and two are three. " * 20)
    with pytest.raises(InvalidRequestError, match="calibrate is for types of few bits, and f16 rounds"):
        linnet.quantize(TINY, out, "f16", calibrate=text)
    linnet.quantize(TINY, out, "f16", calibrate=text, save_importance=tmp_path / "i.gguf")  # which is what it is for
    with pytest.raises(InvalidRequestError, match="importance is for types of few bits"):
        linnet.quantize(TINY, out, "bf16", importance=tmp_path / "i.gguf", force=True)
    linnet.quantize(TINY, out, "f16", tensor_types={"attn_v": "q4_0"}, importance=tmp_path / "i.gguf", force=True)


@pytest.mark.parametrize(("type", "pure"), [("q4_0", False), ("q4_0", True), ("f16", False)])
def test_the_output_of_a_tied_model_is_its_embedding(type: str, pure: bool, tmp_path: Path) -> None:
    report = linnet.quantize(TINY, tmp_path / "out.gguf", type, pure=pure, output_type="q8_0")
    assert {tensor.name: tensor.type for tensor in report.tensors}["token_embd.weight"] == "q8_0"


@pytest.mark.parametrize(("stored", "type"), [("Q4_0", "q8_0"), ("Q4_0", "q4_k_m"), ("Q4_K_M", "f16"), ("Q2_K", "q3_k_s")])
def test_a_source_that_is_quantized_lower(stored: str, type: str, tiny_in: Quantized, tmp_path: Path) -> None:
    refused(tmp_path, type, model=tiny_in(stored), match=f"stored as {stored[:4]}.* already.*--force")
    linnet.quantize(tiny_in(stored), tmp_path / "out.gguf", type, force=True)


def test_a_source_that_is_quantized_higher_or_alike(tiny_in: Quantized, tmp_path: Path) -> None:
    report = linnet.quantize(tiny_in("Q8_0"), tmp_path / "smaller.gguf", "q4_k_m")
    assert report.types["q4_k"] > 20
    same = linnet.quantize(tiny_in("Q4_K_M"), tmp_path / "same.gguf", "q4_k_m")
    assert all(tensor.relative_error == 0 for tensor in same.tensors)
    assert (tmp_path / "same.gguf").read_bytes() == tiny_in("Q4_K_M").read_bytes()


def test_rows_that_do_not_divide_are_named_with_their_fallback(tmp_path: Path) -> None:
    args = {"n_layer": 2, "n_head": 4, "n_embd": 96, "block_size": 64, "bias": True, "vocab_size": 101, "dropout": 0.0}
    torch.save({"model": NanoGpt(args).state_dict(), "model_args": args}, tmp_path / "ckpt.pt")
    report = linnet.quantize(tmp_path / "ckpt.pt", tmp_path / "out.gguf", "q4_k_s")
    assert any("rows of 96 are no multiple of Q4_K's 256, fallback type Q5_0" in note for note in report.notes)
    assert report.types == {"q5_0": 6, "q8_0": 1, "q5_1": 2, "f32": report.types["f32"]}


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (96, {"q2_k": "q4_0", "q3_k_s": "q4_0", "q4_k_s": "q5_0", "q5_k_s": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl", "q4_0": "q4_0"}),
        (40, {"q2_k": "f16", "q4_k_s": "f16", "q4_0": "f16", "mxfp4": "f16"}),
    ],
)
def test_what_stands_in_for_each_type(width: int, expected: dict[str, str], tmp_path: Path) -> None:
    args = {"n_layer": 1, "n_head": 4, "n_embd": width, "block_size": 64, "bias": True, "vocab_size": 101, "dropout": 0.0}
    torch.save({"model": NanoGpt(args).state_dict(), "model_args": args}, tmp_path / "ckpt.pt")
    for type, fallback in expected.items():
        report = linnet.quantize(tmp_path / "ckpt.pt", tmp_path / "out.gguf", type, pure=True, force=True)
        assert {tensor.type for tensor in report.tensors if tensor.name == "blk.0.attn_output.weight"} == {fallback}
        assert any(f"fallback type {fallback.upper()}" in note for note in report.notes) == (fallback != type)


def test_a_family_that_gguf_has_no_name_for(tmp_path: Path) -> None:
    parameters = {"d_model": 24, "num_heads": 3, "num_blocks": 2, "context_length": 32, "max_token_value": 61, "dropout": 0.1}
    torch.save({"h_params": parameters, "model_state_dict": Tutorial(parameters).state_dict()}, tmp_path / "model.ckpt")
    with pytest.raises(UnsupportedModelError, match="no name for the architecture 'from_scratch'"):
        linnet.quantize(tmp_path / "model.ckpt", tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out.gguf").exists()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    args = {"n_layer": 1, "n_head": 4, "n_embd": 64, "block_size": 64, "bias": True, "vocab_size": 101, "dropout": 0.0}
    state = NanoGpt(args).state_dict()
    state["transformer.h.0.mlp.c_fc.weight"][3, 5] = np.nan
    torch.save({"model": state, "model_args": args}, tmp_path / "ckpt.pt")
    with pytest.raises(ModelFileError, match=r"c_fc\.weight"):
        linnet.quantize(tmp_path / "ckpt.pt", tmp_path / "out.gguf", "q4_0")
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"]


def test_too_little_space_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    refused(tmp_path, "q8_0", match=r"takes 3\.\d MB, and 1\.0 MB are free")


@pytest.mark.parametrize("work", ["quantize({model!r}, {out!r}, 'q8_0')", "convert({model!r}, {out!r})"])
def test_a_disk_that_fills_up_leaves_nothing(work: str, tmp_path: Path) -> None:
    """The system refuses to let the file grow past a megabyte."""
    script = "import linnet; linnet." + work.format(model=str(TINY), out=str(tmp_path / "out.gguf"))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    done = subprocess.run([sys.executable, "-c", script], preexec_fn=limit, capture_output=True, text=True, check=False)
    assert "InvalidRequestError" in done.stderr
    assert "cannot be written (File too large); nothing is left of it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    script = (
        "import time, linnet\nfrom linnet.quantize.gguf_writer import GgufWriter\n"
        "GgufWriter.finish = lambda self: (self.file.flush(), print('written', flush=True), time.sleep(60))\n"
        f"linnet.quantize({str(TINY)!r}, {str(tmp_path / 'out.gguf')!r}, 'q8_0')"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name != "out.gguf"
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        read_gguf(left)


def test_interrupting_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        linnet.quantize(TINY, tmp_path / "out.gguf", "q4_k", progress=interrupt)
    assert time.monotonic() - started < 30
    assert not list(tmp_path.iterdir())
