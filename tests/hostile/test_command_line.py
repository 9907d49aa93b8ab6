"""Bad files from outside: one line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hostile_files import gguf, model_gguf, model_pairs, write_folder


def make_magic(folder):
    (folder / "model.gguf").write_bytes(b"GGML" + bytes(100))
    return folder / "model.gguf"


def make_truncated(folder):
    data = model_gguf(["f32"]).data
    (folder / "model.gguf").write_bytes(data[: len(data) // 2])
    return folder / "model.gguf"


def make_steering(folder):
    pairs = [pair for pair in model_pairs() if pair[0] != b"general.architecture"]
    (folder / "model.gguf").write_bytes(gguf([(b"general.architecture", 8, b"\x1b[2J\nlinnet: all is well\r"), *pairs], []).data)
    return folder / "model.gguf"


def make_deep(folder):
    write_folder(folder / "model")
    (folder / "model" / "config.json").write_bytes(b"[" * 100_000)
    return folder / "model"


def make_pipe(folder):
    os.mkfifo(folder / "model")
    return folder / "model"


@pytest.mark.parametrize("make", [make_magic, make_truncated, make_steering, make_deep, make_pipe])
def test_one_line_and_exit_code_2(make, tmp_path):
    path = make(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "linnet.cli.main", "run", str(path), "hello"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("linnet: error: ")
    assert done.stderr.count("\n") == 1
    assert path.name in done.stderr
    assert "\x1b" not in done.stderr
