"""Mistakes of the user's making: exit code 2, one line on standard error that names the thing, nothing on standard output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LONG = "word " * 3000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "nowhere", "hi"), "nowhere"),
        (("run", "./missing.gguf", "hi"), "missing.gguf"),
        (("run", "someone/something", "hi"), "hf download someone/something"),
        (("run", "tiny", "hi", "--temperature", "-1"), "temperature is -1.0; it must be between"),
        (("run", "tiny", "hi", "--temperature", "nan"), "temperature is nan"),
        (("run", "tiny", "hi", "--temperature", "warm"), "--temperature"),
        (("run", "tiny", "hi", "--tempature", "1"), "--temperature"),
        (("run", "tiny", "hi", "--top-p", "1.1"), "top_p is 1.1"),
        (("run", "tiny", "hi", "--min-tokens", "5", "--max-tokens", "4"), "min_tokens is 5"),
        (("run", "tiny", "hi", *["--stop", "x"] * 10_000), "stop has 10000 texts"),
        (("run", "tiny", "hi", "--logit-bias", "7"), "ID=VALUE"),
        (("run", "tiny", "hi", "--logit-bias", "7=1", "--logit-bias", "7=2"), "7 twice"),
        (("run", "tiny", "hi", "--logit-bias", "99999=1"), "99999"),
        (("run", "tiny", "hi", "--logprobs", "2"), "--json"),
        (("run", "tiny", "hi", "--raw", "--system", "x"), "--raw"),
        (("run", "tiny", "hi", "--raw", "--chat-template", "chatml"), "--chat-template writes conversations, and --raw asks for none"),
        (("trace", "tiny", "hi", "--raw", "--chat-template", "chatml"), "--chat-template writes conversations"),
        (("run", "tiny", "hi", "--weights", "q9"), "weights is 'q9'; it must be one of"),
        (("run", "tiny", "hi", "--threads", "0"), "threads is 0"),
        (("run", "tiny", "hi", "--context", "5000"), "5000"),
        (("run", "tiny", "hi", "--device", "gpu"), "device 'gpu' is not one of cpu, cuda"),
        (("run", "tiny", "hi", "--nvidia", "--device", "cpu"), "--nvidia and --device each say where to compute"),
        pytest.param(("run", "tiny", "hi", "--device", "cuda:77"), "device 'cuda:77' is GPUs of NVIDIA", marks=pytest.mark.slow),
        pytest.param(("run", "tiny", "hi", "--cambricon"), "driven by the package torch_mlu", marks=pytest.mark.slow),
        pytest.param(("serve", "tiny", "--tp", "3"), "it has 4 key and value heads; choose another tp", marks=pytest.mark.slow),
        (("run", "tiny", "hi", "--tokenizer", "nowhere"), "nowhere"),
        (("run", "tiny", "hi", "--chat-template", "nowhere"), "nowhere"),
        (("run", "tiny", LONG), "the context holds 1024"),
        (("run", "tiny", ""), "the prompt is empty"),
        (("run", "tiny", b"caf\xe9"), "UTF-8"),
        (("run", "tiny", "hi", "there"), "there"),
        (("run",), "MODEL"),
        (("ran", "tiny"), "ran"),
        (("--log-level", "loud", "run", "tiny", "hi"), "--log-level"),
        (("chat", "nowhere"), "nowhere"),
        (("chat", "tiny", "--n", "2"), "--n"),
        (("chat", "tiny", "--temperature", "-1"), "temperature is -1.0"),
    ],
    ids=lambda value: " ".join(map(str, value[:6]))[:60] if isinstance(value, tuple) else "",
)
def test_one_line_and_exit_code_2(linnet_here, arguments, named):
    expect_refusal(linnet_here(*arguments), named)


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 2)])
def test_streams_may_be_closed(command, env, tmp_path: Path, closed: str, code: int):
    """As by `linnet ... <&-` in a shell, or a service that starts a program without them: Python has None in their place then."""
    prompt = [] if "<" in closed else ["hi"]
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *command, "run", "tiny", *prompt, "--max-tokens", "2"]
    done = subprocess.run(line, capture_output=True, env=env, cwd=tmp_path, text=True, timeout=120)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "prompt is empty" in done.stderr or closed != "<&-"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize(
    "command", [("run",), ("inspect",), ("bench", "--skip-load"), ("run", "tiny", "hi", "--tokenizer"), ("eval", "tiny")]
)
def test_what_may_not_be_read_is_said(linnet, tmp_path: Path, command: tuple[str, ...]):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    expect_refusal(linnet(*command, locked), "ermission denied")


@pytest.mark.parametrize(
    ("stdin", "named"), [(b"caf\xe9", "byte 0xe9 at offset 3"), (b"", "the prompt is empty"), (b"\n", "the prompt is empty")]
)
def test_bad_standard_input(linnet, stdin, named):
    expect_refusal(linnet("run", "tiny", stdin=stdin), named)


def test_spoilt_models(linnet, tiny_copy: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    expect_refusal(linnet("run", empty, "hi"), str(empty))
    weights = tiny_copy / "model.safetensors"
    os.truncate(weights, 100_000)
    expect_refusal(linnet("run", tiny_copy, "hi"), "truncated")
    weights.unlink()
    expect_refusal(linnet("run", tiny_copy, "hi"), str(tiny_copy))
    config = json.loads((tiny_copy / "config.json").read_text())
    (tiny_copy / "config.json").write_text(json.dumps({**config, "model_type": "unheard", "architectures": ["Unheard"]}))
    expect_refusal(linnet("run", tiny_copy, "hi"), "nheard")
    shutil.rmtree(tiny_copy)
    expect_refusal(linnet("chat", tiny_copy), str(tiny_copy))


def test_bad_advice_is_the_models_fault(linnet, tiny_copy: Path):
    (tiny_copy / "generation_config.json").write_text('{"do_sample": true, "top_p": 7, "eos_token_id": 4}')
    expect_refusal(linnet("run", tiny_copy, "hi"), "generation_config.json")
    assert linnet("run", tiny_copy, "hi", "--top-p", "0.9").returncode == 0


def test_debug_adds_the_traceback(linnet):
    done = linnet("--debug", "run", "nowhere", "hi")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("linnet: error: ")


def test_version_help_and_nothing(linnet):
    import linnet as package

    assert linnet("--version").stdout == f"linnet {package.__version__}\n"
    for arguments, code in ((("--help",), 0), (("run", "-h"), 0), (("chat", "--help"), 0), ((), 2)):
        done = linnet(*arguments)
        assert (done.returncode, done.stderr) == (code, "")
        assert "Usage: linnet" in done.stdout


def test_the_command_line_is_read_without_heavy_imports():
    heavy = {"numpy", "tokenizers", "jinja2", "prompt_toolkit", "huggingface_hub", "linnet.llm"}
    code = f"import sys, linnet.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def expect_refusal(done: subprocess.CompletedProcess[str], named: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("linnet: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert named in done.stderr
