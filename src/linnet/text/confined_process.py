"""The process that confined.py starts: frames of marshal in, text out. Imports the standard library only, so that it starts in tens of
milliseconds.

A program is a file with `prepare()`, which imports what it needs, and `answer(question)`, which gives a status of one byte and a text.
"""

from __future__ import annotations

import marshal
import runpy
import signal
import sys
from typing import IO, Any


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """The first frame holds the import paths, the program, and the limits of memory (bytes) and processor time (seconds). Then each frame
    is a question."""
    paths, program, memory, seconds = _receive(requests)
    sys.path[:] = paths
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    names = runpy.run_path(program)
    names["prepare"]()  # before memory is limited
    limit_memory(memory)
    _send(replies, b"+", "")
    while (question := _receive(requests)) is not None:
        limit_time(seconds)
        status, text = names["answer"](question)
        limit_time(0)
        del question
        _send(replies, status, text)


def limit_memory(more: int) -> None:
    """Allows `more` bytes of address space on top of what is taken. On systems that do not say what is taken (other than Linux), only time
    is limited."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
    except (ImportError, OSError, ValueError):
        pass


def limit_time(seconds: float) -> None:
    """The kernel ends this process after so much processor time, also inside C code; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _receive(requests: IO[bytes]) -> Any:
    """The next frame (8 bytes of length, then marshal), or None if the parent is gone."""
    size = requests.read(8)
    return marshal.loads(requests.read(int.from_bytes(size, "little"))) if len(size) == 8 else None


def _send(replies: IO[bytes], status: bytes, text: str) -> None:
    data = text.encode("utf-8", "replace")
    replies.write(status + len(data).to_bytes(8, "little") + data)
    replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
