"""The benchmark of GPUs runs through, on a processor and a small model: it is ready for a machine that has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_it_runs_and_says_what_it_found() -> None:
    command = [sys.executable, str(SCRIPT), "--shape", "small", "--device", "cpu", "--no-compile"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["linnet"].keys() == found["transformers"].keys() == {"batch_1", "batch_8", "batch_64", "prefill"}
    assert {"share of copy, batch 1", "share of matrix rate", "ratio, batch 64"} <= found["found"].keys()
