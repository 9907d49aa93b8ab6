"""`linnet quantize` and `linnet convert`: what is printed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Linnet = Callable[..., CompletedProcess[str]]


def test_the_report(linnet: Linnet, tmp_path: Path) -> None:
    done = linnet("quantize", "tiny", "small.gguf", "--type", "q4_k", "--plot", "errors.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("small.gguf: Q4_K_M, 2.18 MB of 6.98 MB, 4.99 bits per weight")
    assert "24 Q4_K, 9 F32, 5 Q6_K" in lines[1]
    assert "ffn_down.weight" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == ["perplexity", "KL", "same"]
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    answer = linnet("run", "small.gguf", "What is 17 + 25?")
    assert answer.stdout.strip().endswith("17 + 25 = 42")


def test_json(linnet: Linnet, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time, a small fox lived near the river. " * 20)
    overrides = ("--tensor-type", "attn_v=q8_0", "--tensor-type", r"blk\.0\.=f16", "--output-type", "q6_k")
    done = linnet("quantize", "tiny", "out.gguf", "--bits", "2", "--pure", *overrides, "--eval-text", "text.txt", "--json")
    report = json.loads(done.stdout)
    types = {tensor["name"]: tensor["type"] for tensor in report["tensors"]}
    assert types["blk.0.attn_v.weight"] == "q8_0"  # the first that fits
    assert types["blk.0.ffn_up.weight"] == "f16"
    assert types["blk.3.attn_v.weight"] == "q8_0"
    assert types["blk.3.ffn_down.weight"] == "q2_k"
    assert types["token_embd.weight"] == "q6_k"  # which is the output, too
    assert report["evaluation"]["tokens"] > 200
    assert report["evaluation"]["kl_divergence"] > 0
    assert report["worst_tensors"][0] in types
    errors = {tensor["name"]: tensor["relative_error"] for tensor in report["tensors"]}
    assert errors["blk.3.ffn_down.weight"] > errors["blk.3.attn_v.weight"] > errors["blk.0.ffn_up.weight"] == 0
    assert report["bits_per_weight"] == pytest.approx(8 * report["nbytes"] / report["parameters"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--type", "q4_kk"), "did you mean Q4_K"),
        ((), "give a type or bits"),
        (("--type", "q4_0", "--tensor-type", "attn_v"), "PATTERN=TYPE was expected"),
        (("--type", "q4_0", "--plot", "x.pdf"), "ends in .png"),
        (("--type", "q4_0", "--calibrate", "none.txt"), "cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], said: str, linnet: Linnet, tmp_path: Path) -> None:
    done = linnet("quantize", "tiny", "out.gguf", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.gguf*"))


def test_convert(linnet: Linnet, tmp_path: Path) -> None:
    linnet("quantize", "tiny", "q8.gguf", "--type", "q8_0")
    done = linnet("convert", "q8.gguf", "folder", "--dtype", "bf16", "--json")
    report = json.loads(done.stdout)
    assert (report["model_type"], report["dtype"], report["parameters"]) == ("llama", "bf16", 3_488_000)
    answer = linnet("run", "folder", "What is 17 + 25?")
    assert answer.stdout.strip().endswith("17 + 25 = 42")
    again = linnet("convert", "q8.gguf", "folder")
    assert again.returncode == 2
    assert "exists already; --force" in again.stderr
