"""Every kernel of instruction sets that this processor may lack, against the plain ones: kernel_driver.cc built for each; and whole
layers with them: tape_driver.cc.

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


def listed(command: str) -> list[Path]:
    """The sources that CMakeLists.txt lists in a command."""
    found = re.search(rf"{command}([^)$]*)", (ROOT / "CMakeLists.txt").read_text())
    assert found
    return [ROOT / word for word in found[1].split() if word.endswith(".cc")]


KERNELS = listed(r"set\(KERNEL_SOURCES")
CORE = [source for source in listed(r"nanobind_add_module\(_core") if source.name not in ("bind.cc", "recording.cc")]
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def build(
    compiler: str, isa: str, options: list[str], folder: Path, program: str = "kernel_driver", core: list[Path] | None = None
) -> Path:
    """The program, linked with the kernels of `isa` and the plain ones. core: what else it takes of the core."""
    machine = "LINNET_ARM64" if isa == "neon" else "LINNET_X86"
    common = ["-std=c++17", "-ffp-contract=off", "-fno-math-errno", f"-D{machine}"]
    plain = [*common, "-DLINNET_ISA=scalar"]
    executable = folder / f"{program}.{isa}"

    def compile(job: tuple[Path, str, list[str]]) -> str:
        source, name, options = job
        to = folder / f"{source.stem}.{name}.o"
        if not to.exists():  # the plain kernels of an earlier test
            subprocess.run([compiler, *options, "-O1", "-w", "-c", str(source), "-o", str(to)], check=True)
        return str(to)

    jobs = [(Path(__file__).with_name(f"{program}.cc"), isa, [*common, f"-DLINNET_DRIVEN={isa}"])]
    jobs += [(source, f"core.{machine}", common) for source in core or ()]
    jobs += [(source, name, way) for source in KERNELS for name, way in ((f"scalar.{machine}", plain), (isa, options))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, jobs))
    subprocess.run([compiler, "-static", "-pthread", *objects, "-o", str(executable)], check=True)
    return executable


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


def run_on_arm(folder: Path, program: str, core: list[Path] | None = None) -> None:
    if "neon" in _core.available_isas() and COMPILER:
        run([str(build(COMPILER, "neon", flags("neon"), folder, program, core))])
    elif CROSS is None or EMULATOR is None:
        pytest.skip("needs an Arm processor, or g++-aarch64-linux-gnu and qemu-user: `make test-neon` says how")
    else:
        run([EMULATOR, "-cpu", "max", str(build(CROSS, "neon", flags("neon"), folder, program, core))])


def test_kernels_of_neon(folder: Path) -> None:
    run_on_arm(folder, "kernel_driver")


@pytest.mark.slow
def test_layers_with_neon(folder: Path) -> None:
    run_on_arm(folder, "tape_driver", CORE)
