"""The thread pool under the thread sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def test_the_pool_has_no_race_and_loses_no_tile(tmp_path: Path) -> None:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / "pool_stress"
    sources = [HERE / "pool_stress.cc", HERE.parents[1] / "csrc/core/threads.cc"]
    build = [COMPILER, "-std=c++17", "-O1", "-g", "-pthread", "-fsanitize=thread", *map(str, sources), "-o", str(program)]
    built = subprocess.run(build, capture_output=True, text=True)
    if "tsan" in built.stderr and "cannot find" in built.stderr:
        pytest.skip("the compiler comes without the thread sanitizer")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stdout + ran.stderr
