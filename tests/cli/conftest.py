"""Running `linnet` as its users do: in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "models" / "tiny"
COMMAND = [sys.executable, "-m", "linnet.cli.main"]

Result = subprocess.CompletedProcess[str]
Linnet = Callable[..., Result]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """This environment, less what changes how the program prints, and with a state folder of its own."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "LINNET_DEBUG", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), "HF_HUB_CACHE": str(tmp_path / "hub")}


@pytest.fixture
def command() -> list[str]:
    return COMMAND


@pytest.fixture
def linnet(env: dict[str, str], tmp_path: Path) -> Linnet:
    """Runs the program in an empty folder: `linnet("run", "tiny", stdin=...)`; stdin may be bytes that are no text."""

    def run(*arguments: str | os.PathLike[str], stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run([*COMMAND, *arguments], input=data, capture_output=True, env=env, cwd=tmp_path, timeout=120)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def linnet_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Linnet:
    """The same in this process, which has imported everything already: for commands of which many are tried."""

    def run(*arguments: str | bytes | os.PathLike[str]) -> Result:
        from linnet.cli.main import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["linnet", *map(os.fsdecode, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """The built-in model as a folder that a test may spoil."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
    return folder
