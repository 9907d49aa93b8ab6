"""Renders chat templates in a process of their own, which the system ends when one takes too much time or memory.

Jinja2's sandbox keeps a template from reaching for what it should not; it does not keep it from never ending, and what
a template builds in one call into C (`[x, x]` nested forty deep, printed) no check inside the interpreter can stop.
"""

from __future__ import annotations

import atexit
import marshal
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from linnet.errors import ChatTemplateError, HostileTemplateError

MEMORY = 512 * 2**20
"""Bytes that rendering may take."""
PROCESSOR_SECONDS = 0.8
"""Processor time that one rendering may take, however busy the machine is."""
LONGEST_TEXT = 32 * 2**20
"""Characters that a template may write."""
_PATIENCE = 60.0  # seconds on the clock, for a process that hangs without computing
_LONGEST_REASON = 2000


def render(template: str, variables: Mapping[str, Any], where: str) -> str:
    """What `template` makes of `variables`, which hold only built-in types of JSON. Safe to call from any thread.

    where: the template's name in messages. Raises ChatTemplateError where it refuses the variables or fails on them, and
    HostileTemplateError where it is malformed, breaks out of the sandbox, or takes more than the limits above.
    The first call starts the process (tens of milliseconds); one call costs about 0.2 ms more than rendering.
    """
    return _ask(template, dict(variables), where)


def check(template: str, where: str) -> None:
    """Raises HostileTemplateError where the template does not compile."""
    _ask(template, None, where)


def _ask(template: str, variables: dict[str, Any] | None, where: str) -> str:
    global _process
    with _lock:
        if _process is None or not _process.alive():
            _process = _Process()
        status, text = _process.render(template, variables)
    if status == b"+":
        return text
    raise (ChatTemplateError if status == b"-" else HostileTemplateError)(f"{where} {text[:_LONGEST_REASON]}")


class _Process:
    def __init__(self) -> None:
        script = Path(__file__).with_name("template_process.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise ChatTemplateError(f"chat templates run in a process of their own, which cannot be started ({error})") from error
        ready = self._exchange((sys.path, MEMORY, PROCESSOR_SECONDS, LONGEST_TEXT))
        if ready is None:
            raise ChatTemplateError(f"chat templates run in a process of their own, which does not start ({sys.executable} {script})")

    def alive(self) -> bool:
        return self._process.poll() is None

    def render(self, template: str, variables: dict[str, Any] | None) -> tuple[bytes, str]:
        """A status of template_process.py and the text, or the reason why there is none."""
        reply = self._exchange((template, variables))
        if reply is None:
            return b"!", f"takes more than {PROCESSOR_SECONDS} s of processor time, or more memory than templates may; it was ended"
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was still to be written
                    pipe.close()

    def _exchange(self, request: Any) -> tuple[bytes, str] | None:
        """The reply to one frame; None where the process ended in place of it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        data = marshal.dumps(request)
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
        except BaseException:  # interrupted halfway: what comes next from it would be the answer to another question
            self.end()
            raise
        finally:
            watch.cancel()


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


_lock = threading.Lock()
_process: _Process | None = None


def _forget() -> None:
    """A forked child shares no pipe with its parent."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


def _end() -> None:
    if _process is not None:
        _process.end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
