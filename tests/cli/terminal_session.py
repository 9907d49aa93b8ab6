"""A program in a pseudo-terminal: type, wait for what it prints, look at what it printed."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-B0-2]|[=>78])")


PATIENCE = 60.0
"""Seconds without output after which a program counts as stuck."""


class TerminalSession:
    """Runs `command` on a terminal of 100 columns. `seen` is everything it printed, escape sequences included."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**env, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it as from a keyboard
        )
        os.close(slave)
        self.seen = ""
        self._read_to = 0  # in characters of `seen` less its escape sequences
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Waits until what was printed after the last match, less escape sequences, matches; gives it up to the match's end."""
        while True:
            text = _ESCAPES.sub("", self.seen)[self._read_to :]
            match = re.search(pattern, text)
            if match is not None:
                self._read_to += match.end()
                return text[: match.end()]
            assert self._receive(), f"{pattern!r} did not come; the terminal shows: {text!r}"

    def expect_editor(self) -> None:
        """Waits until a line editor reads keys: it has turned on bracketed paste, and not off again."""
        while self.seen.count("\x1b[?2004h") <= self.seen.count("\x1b[?2004l"):
            assert self._receive(), f"no line editor; the terminal shows: {self.seen!r}"

    def wait(self) -> int:
        """Reads to the end and gives the exit code."""
        while self._receive():
            pass
        return self.process.wait(PATIENCE)

    def _receive(self) -> bool:
        """Takes what there is; False at the end of the program, or where nothing comes any more."""
        if not select.select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side has closed
            return False
        self.seen += self._decoder.decode(data)
        return bool(data)

    def __enter__(self) -> TerminalSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
