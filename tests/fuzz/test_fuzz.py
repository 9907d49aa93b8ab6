"""Mutated model files against the whole of Linnet: success or an error of its tree, no crash, no hang, bounded memory.

Once with the package's own core and once with one built under the address and undefined-behaviour sanitizers.
LINNET_FUZZ_SECONDS: how long all of it takes together (60); LINNET_FUZZ_SEED: the first seed (0). A failure names its seed:

    PYTHONPATH=src:tests/fuzz:tests/hostile:tests/load python tests/fuzz/worker.py gguf 1234 1 /tmp/fuzz --only
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sanitized_core import build_sanitized, sanitized_environment

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGETS = ("gguf", "safetensors", "torch", "config", "tokenizer", "vocabulary")
SANITIZED = (("gguf", "scalar"), ("gguf", ""), ("safetensors", "scalar"))
"""Targets whose cases reach the core, and instruction sets; "": the best that there is, which in the quick build is AVX2."""
SHARES = len(TARGETS) + len(SANITIZED)
PATHS = os.pathsep.join(str(path) for path in (HERE, HERE.parent / "hostile", HERE.parent / "load", *sys.path))


def seconds(default: int) -> float:
    return float(os.environ.get("LINNET_FUZZ_SECONDS", default)) / SHARES


def fuzz(target: str, seconds: float, first: int, folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, str(HERE / "worker.py"), target, str(first), str(seconds), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 180, env={**os.environ, **environment, "PYTHONPATH": PATHS}
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    seed = (folder / "seed").read_text() if (folder / "seed").exists() else "none"
    assert done.returncode in (0, 1), f"{target}, seed {seed}: the process ended with {done.returncode}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, "\n".join(json.dumps(line) for line in lines[:20])
    summary = lines[-1]
    print(summary)
    assert summary["cases"] > 0
    if summary["cases"] >= 100:  # neither everything nor nothing gets through: the fuzzer reaches what lies behind the readers
        assert summary["outcomes"].get("ok", 0) > 0
        assert summary["outcomes"].get("ModelFileError", 0) > 0


def environment_of(every_isa: bool) -> dict[str, str]:
    core, reason = build_sanitized(ROOT, every_isa)
    if core is None:
        pytest.skip(reason)
    return sanitized_environment(core)


@pytest.fixture(scope="session")
def sanitized() -> dict[str, str]:
    """The environment of a process whose core is built under sanitizers; skips, with the reason, where that cannot be."""
    return environment_of(every_isa=False)


@pytest.fixture(scope="session")
def sanitized_everywhere() -> dict[str, str]:
    """The same, with kernels of every instruction set."""
    return environment_of(every_isa=True)


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files(target: str, tmp_path: Path) -> None:
    fuzz(target, seconds(60), int(os.environ.get("LINNET_FUZZ_SEED", 0)), tmp_path, {})


@pytest.mark.parametrize(("target", "isa"), SANITIZED)
def test_mutated_files_under_sanitizers(target: str, isa: str, sanitized: dict[str, str], tmp_path: Path) -> None:
    fuzz(target, seconds(60), int(os.environ.get("LINNET_FUZZ_SEED", 0)), tmp_path, {**sanitized, "LINNET_ISA": isa})


def test_kernels_under_sanitizers(sanitized: dict[str, str]) -> None:
    check_kernels(sanitized)


@pytest.mark.slow
def test_kernels_of_every_instruction_set_under_sanitizers(sanitized_everywhere: dict[str, str]) -> None:
    check_kernels(sanitized_everywhere)


def check_kernels(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "core_under_test", "-p", "no:cacheprovider", "tests/ops/test_kernels.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, env={**os.environ, **environment, "PYTHONPATH": PATHS}
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files_for_an_hour(target: str, tmp_path: Path) -> None:
    fuzz(target, seconds(3600), int(time.time()) * 1000, tmp_path, {})


@pytest.mark.slow
@pytest.mark.parametrize(("target", "isa"), SANITIZED)
def test_mutated_files_under_sanitizers_for_an_hour(target: str, isa: str, sanitized_everywhere: dict[str, str], tmp_path: Path) -> None:
    fuzz(target, seconds(3600), int(time.time()) * 1000, tmp_path, {**sanitized_everywhere, "LINNET_ISA": isa})
