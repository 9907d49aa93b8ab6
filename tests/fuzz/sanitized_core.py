"""Builds the extension module under sanitizers, in build/sanitize, where later runs only compile what changed.

With scalar kernels and AVX2's, which are the same sources as those of AVX-512 and AVX-VNNI in another vocabulary; with all of them
in build/sanitize-all, which takes more than twice as long and is left to `make test-full`.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SANITIZERS = "address,undefined,float-cast-overflow"
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so.6")


def build_sanitized(root: Path, every_isa: bool) -> tuple[Path | None, str]:
    """The module and "", or None and the reason why it cannot be built here."""
    lacking = [name for name in ("cmake", "ninja", "g++") if _program(name) is None]
    if platform.system() != "Linux" or lacking or find_spec("nanobind") is None:
        return (
            None,
            f"no sanitizers: they need Linux, cmake, ninja, g++ and nanobind (lacking: {', '.join(lacking) or 'nanobind or Linux'})",
        )
    if len(_runtimes()) < len(RUNTIMES):
        return None, f"no sanitizers: g++ has no {', '.join(RUNTIMES)}"
    build = root / "build" / ("sanitize-all" if every_isa else "sanitize")
    cmake = str(_program("cmake"))
    configure = [cmake, "-S", str(root), "-B", str(build), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}"]
    configure += [
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_CXX_COMPILER=g++",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DLINNET_SANITIZE={SANITIZERS}",
        f"-DLINNET_EVERY_ISA={'ON' if every_isa else 'OFF'}",
    ]
    for command in (configure, [cmake, "--build", str(build), "--target", "_core"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return next(build.glob("_core*.so")), ""


def sanitized_environment(core: Path) -> dict[str, str]:
    """What a process needs to run with this module (see core_under_test.py). Python itself leaks, so leaks are not looked for."""
    return {
        "LINNET_TEST_CORE": str(core),
        "LD_PRELOAD": " ".join(_runtimes()),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _program(name: str) -> str | None:
    """A program of this interpreter's environment, or of the system."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _runtimes() -> list[str]:
    """Absolute paths of the libraries that have to be there before Python is; g++ echoes the name of one that it lacks."""
    found = [subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip() for name in RUNTIMES]
    return [path for path in found if Path(path).is_absolute()]
