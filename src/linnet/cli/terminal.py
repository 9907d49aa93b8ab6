"""What commands write and how Ctrl-C reaches them: answers on standard output, all else on standard error."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from linnet.errors import LinnetError

_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""A terminal obeys control characters (move, recolour, paste ...); what a model or a file says shall not reach it so."""


def write(text: str) -> None:
    """A piece of an answer, on standard output, at once."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark on standard error: one line."""
    _line(text, "dim")


def error(text: str) -> None:
    """What went wrong, on standard error: one line."""
    _line(f"linnet: error: {text}", "red")


def report(failure: Exception) -> None:
    """What went wrong, as `error` writes it; with LINNET_DEBUG=1 after the traceback."""
    if os.environ.get("LINNET_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(failure)
    if isinstance(failure, LinnetError):
        error(str(failure))
    else:
        error(f"{type(failure).__name__}: {failure} (unexpected: please report it, with what linnet --debug ... prints)")


def listing(text: str) -> None:
    """Lines that a user asked to see, on standard error, so that standard output holds answers alone."""
    for line in text.splitlines():
        _line(line, "")


def _line(text: str, style: str) -> None:
    """One line, wrapped by nobody but the terminal, styled only on a terminal and without NO_COLOR."""
    from rich.console import Console

    line = " ".join(text.split("\n")).translate(_CONTROLS)
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)
    console.print(line, style="" if os.environ.get("NO_COLOR") else style)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt once: an impatient second one does not cut short what follows the first."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if before is not signal.SIG_IGN:  # which a shell sets for what it starts in the background: Ctrl-C is not for us
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
