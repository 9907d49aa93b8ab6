"""Every kernel of instruction sets that this processor may lack, against the plain ones: kernel_driver.cc built for each.

AVX-VNNI's kernels are compiled once more with AVX-512VL's encoding of the same 256-bit vpdpbusd, which processors have that lack
AVX-VNNI; NEON's are cross-compiled and run by qemu. Without the compiler, the emulator or the processor a test skips and says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernel_builds import COMPILER, ROOT, flags, knows

from linnet import _core

LISTED = re.search(r"set\(KERNEL_SOURCES([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
assert LISTED
KERNELS = [ROOT / source for source in LISTED[1].split()]
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def build(compiler: str, isa: str, options: list[str], folder: Path) -> Path:
    machine = "LINNET_ARM64" if isa == "neon" else "LINNET_X86"
    plain = ["-std=c++17", "-ffp-contract=off", "-fno-math-errno", f"-D{machine}", "-DLINNET_ISA=scalar"]
    program = folder / f"driver.{isa}"

    def compile(job: tuple[Path, str, list[str]]) -> str:
        source, name, options = job
        to = folder / f"{source.stem}.{name}.o"
        if not to.exists():  # the plain kernels of an earlier test
            subprocess.run([compiler, *options, "-O1", "-w", "-c", str(source), "-o", str(to)], check=True)
        return str(to)

    driver = ["-std=c++17", f"-D{machine}", f"-DLINNET_DRIVEN={isa}"]
    jobs = [(Path(__file__).with_name("kernel_driver.cc"), f"driver.{isa}", driver)]
    jobs += [(source, name, way) for source in KERNELS for name, way in ((f"scalar.{machine}", plain), (isa, options))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, jobs))
    subprocess.run([compiler, "-static", *objects, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drivers")


def run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "as the plain kernels have them" in ran.stdout


# What runs here natively is held to float64 by test_kernels.py as well.
@pytest.mark.parametrize("isa", [pytest.param("avx2", marks=pytest.mark.slow), "avxvnni", pytest.param("avx512", marks=pytest.mark.slow)])
def test_kernels_of_x86(isa: str, folder: Path) -> None:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    here, options = _core.available_isas(), flags(isa)
    if isa == "avxvnni" and isa not in here and "avx512" in here:
        options = [option for option in options if option != "-mavxvnni"] + ["-mavx512vnni", "-mavx512vl"]
    elif isa not in here:
        pytest.skip("this processor does not have it")
    elif isa == "avxvnni" and not knows(COMPILER, "-mavxvnni"):
        pytest.skip("the compiler does not know it")
    run([str(build(COMPILER, isa, options, folder))])


def test_kernels_of_neon(folder: Path) -> None:
    if "neon" in _core.available_isas() and COMPILER:
        run([str(build(COMPILER, "neon", flags("neon"), folder))])
    elif CROSS is None or EMULATOR is None:
        pytest.skip("needs an Arm processor, or g++-aarch64-linux-gnu and qemu-user: `make test-neon` says how")
    else:
        run([EMULATOR, "-cpu", "max", str(build(CROSS, "neon", flags("neon"), folder))])
