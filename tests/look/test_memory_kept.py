"""The memory plan against what a process takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("family", "kv_dtype"), [("llama", "f16"), ("gemma3", "q8_0"), ("mistral", "f32"), ("qwen3_moe", "f16"), ("deepseek_v2", "q8_0")]
)
def test_a_process_takes_what_was_planned(family: str, kv_dtype: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--families", family, "--kv-dtypes", kv_dtype], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
