"""How CMakeLists.txt compiles the kernels of an instruction set, for tests that compile them by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def flags(isa: str) -> list[str]:
    """What CMakeLists.txt compiles the kernels of an instruction set with."""
    text = (ROOT / "CMakeLists.txt").read_text()
    common = re.search(r"add_compile_options\((-O3 [^)]*)\)", text)
    defines = re.search(rf"add_kernels\({isa} ([^)]*)\)", text)
    options = re.search(rf"target_compile_options\(kernels_{isa} PRIVATE ([^)#]*)", text)
    assert common
    assert defines
    assert options
    names = [f"-D{name}" for name in (f"LINNET_ISA={isa}", "NDEBUG", *defines[1].split())]
    return ["-std=c++17", *common[1].split(), *names, *options[1].split()]


def knows(compiler: str, flag: str) -> bool:
    return subprocess.run([compiler, flag, "-E", "-x", "c++", os.devnull], capture_output=True).returncode == 0
