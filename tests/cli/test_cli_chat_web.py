"""`linnet chat --web`: a server on this machine alone, and a browser at its page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")

COMMAND = [sys.executable, "-m", "linnet.cli.main", "chat", "tiny", "--web"]


def test_the_page_is_opened(tmp_path: Path) -> None:
    opened, log = tmp_path / "opened", tmp_path / "log"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    environment = {**os.environ, "BROWSER": str(browser)}
    with log.open("wb") as stream, subprocess.Popen(COMMAND, stderr=stream, env=environment) as process:
        try:
            for _ in range(600):
                if opened.exists() and opened.read_text().strip():
                    break
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            address = opened.read_text().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            assert "<title>Linnet</title>" in httpx.get(address).text
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_what_the_page_sets_is_refused() -> None:
    for flags, name in ((["--temperature", "1"], "--temperature"), (["--system", "Hi"], "--system")):
        ran = subprocess.run([*COMMAND, *flags], capture_output=True, text=True)
        assert ran.returncode == 2
        assert f"{name} is set on the page" in ran.stderr
