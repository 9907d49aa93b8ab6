"""`refused`: opens a file in a process of its own and proves that it is refused as a bad file must be."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SECONDS = 20
"""For one file, on a busy machine; a second is what it may take on a free one."""
FACTOR, CONSTANT = 16, 64 * 2**20
"""Opening may take so many times the bytes that the file has on disk, and so many besides."""


class Attacked:
    """The process; a new one is started when a file ended the last."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, action: str, path: Path) -> dict[str, Any]:
        if self.process is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "attacked.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"action": action, "path": os.fspath(path)}).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            code = self.end()
            return {"outcome": f"CRASH with code {code}" if ready else f"CRASH: still running after {SECONDS} s", "grown": 0}
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> int | None:
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.kill()
        return process.wait()


@pytest.fixture(scope="session")
def attacked() -> Iterator[Attacked]:
    process = Attacked()
    yield process
    process.end()


@pytest.fixture
def refused(attacked: Attacked) -> Any:
    """refused(path, pattern, action="open"): a ModelFileError (or UnsupportedModelError) that names a file at or below
    `path` (or `names`), with a reason that matches, on one short line, in little time and memory."""

    def check(path: Path, pattern: str, action: str = "open", names: str | None = None) -> None:
        result = attacked.run(action, path)
        kind, _, message = result["outcome"].partition(": ")
        assert kind in ("ModelFileError", "UnsupportedModelError"), result
        assert (names or path.name) in message, message
        assert re.search(pattern, message), message
        assert len(message) < 30_000
        assert message.isprintable()
        assert result["grown"] <= FACTOR * _disk_bytes(path) + CONSTANT, result

    return check


@pytest.fixture
def accepted(attacked: Attacked) -> Any:
    """accepted(path, action="use"): what the attacks start from runs, so that a refusal is for what was changed."""

    def check(path: Path, action: str = "use") -> None:
        assert attacked.run(action, path)["outcome"] == "ok"

    return check


def _disk_bytes(path: Path) -> int:
    """Without the holes of sparse files."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(min(file.stat().st_size, 512 * file.stat().st_blocks) for file in files if file.exists())
