"""Triton's kernels against PyTorch's operations (`triton_cases.py`), and what happens without Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from linnet.ops.torch import devices


def run_cases(**environment: str) -> None:
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("triton_cases.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_by_the_interpreter() -> None:
    run_cases(TRITON_INTERPRET="1", LINNET_TEST_DEVICE="cpu")


@pytest.mark.skipif("LINNET_TEST_DEVICE" not in os.environ, reason="of a device")
def test_on_the_device() -> None:
    run_cases(TRITON_INTERPRET="0")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 86, 90, 120])
def test_they_compile_for_gpus(capability: int, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("triton_compiled.py")
    done = subprocess.run([sys.executable, str(script), str(capability)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]


def test_without_triton(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "linnet.ops.torch.kernels", raising=False)
    assert devices.open_kernels(torch.device("cuda", 0)) is None
    assert "Triton is not installed" in caplog.text
    assert devices.open_kernels(torch.device("cpu")) is None
