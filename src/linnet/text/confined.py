"""`Confined`: runs work that could go on for ever or take all memory in a process of its own, with limits that the system enforces.

It does not know the work: the programs are files beside this one, and confined_process.py runs them.
"""

from __future__ import annotations

import atexit
import marshal
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from linnet.errors import LinnetError

_PATIENCE = 60.0  # seconds on the clock, for a process that hangs without computing


class Confined:
    """A program of ours that answers one question at a time. Safe to use from any thread.

    program: the name of its file, without the ending. memory: bytes that it may take on top of what it has at its start. seconds:
    processor time that an answer may take, however busy the machine is. The first question starts the process (tens of
    milliseconds), and so does the first one after the process was ended; each question costs about 0.2 ms besides its answer.
    """

    def __init__(self, program: str, memory: int, seconds: float) -> None:
        self.memory, self.seconds = memory, seconds
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        _everyone.add(self)

    @property
    def pid(self) -> int | None:
        """The id of the process while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, question: Any) -> tuple[bytes, str] | None:
        """The answer: a status of one byte, and a text. None if the process took too much time or memory and was ended. question: made of
        Python's built-in types. Raises LinnetError if no process can be started."""
        with self._lock:
            if self.pid is None:
                self._start()
            return self._exchange(question)

    def end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was still to be written
                    pipe.close()
        self._process = None

    def forget(self) -> None:
        """Called in a forked child, which must not use its parent's pipes: drops the process without ending it."""
        self._lock, self._process = threading.Lock(), None

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("confined_process.py"))]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise LinnetError(f"{self._program} runs in a process of its own, which cannot be started ({error})") from error
        program = str(Path(__file__).with_name(f"{self._program}.py"))
        if self._exchange((sys.path, program, self.memory, self.seconds)) is None:
            raise LinnetError(f"{self._program} runs in a process of its own, which does not start ({' '.join(command)} {program})")

    def _exchange(self, question: Any) -> tuple[bytes, str] | None:
        """The reply to one frame."""
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        data = marshal.dumps(question)
        watch = threading.Timer(_PATIENCE, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            stdin.write(len(data).to_bytes(8, "little") + data)
            stdin.flush()
            status = _read(stdout, 1)
            text = _read(stdout, int.from_bytes(_read(stdout, 8), "little"))
            return status, text.decode("utf-8")
        except (OSError, EOFError):
            self.end()
            return None
        except BaseException:  # interrupted halfway: the next reply would be the answer to the question before
            self.end()
            raise
        finally:
            watch.cancel()


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


_everyone: WeakSet[Confined] = WeakSet()


def _forget() -> None:
    for confined in _everyone:
        confined.forget()


def _end() -> None:
    for confined in _everyone:
        confined.end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
