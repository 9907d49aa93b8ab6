"""The benchmark of GPUs runs through, on a processor and a small model: it is ready for a machine that has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*flags: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--shape", "small", "--device", "cpu", "--no-compile", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_it_runs_and_says_what_it_found() -> None:
    code, found = run()
    assert (code, found["failed"]) == (0, {})
    assert found["linnet"].keys() == found["transformers"].keys() == {"batch_1", "batch_8", "batch_64", "prefill"}
    assert {"share of copy, batch 1", "share of matrix rate", "ratio, batch 64"} <= found["found"].keys()


@pytest.mark.slow
def test_what_fails_costs_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    code, found = run()
    assert code == 1
    assert found["failed"] == {"transformers": "ImportError: not here"}
    assert found["linnet"]["batch_1"] > 0
    assert found["found"].keys() == {"share of copy, batch 1", "share of matrix rate"}
