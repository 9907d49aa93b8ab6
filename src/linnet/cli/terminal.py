"""What commands write and how Ctrl-C reaches them: answers on standard output, all else on standard error."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from linnet.errors import InvalidRequestError, LinnetError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""A terminal obeys control characters (move, recolour, paste ...); what a model or a file says shall not reach it so."""


PAGE_WIDTH = 200
"""Columns of a page: on a narrower terminal the lines of a table wrap, rather than lose figures."""


def write(text: str) -> None:
    """A piece of an answer, on standard output, at once."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_file(option: str, path: Path, text: str) -> None:
    """The file that an option names. Raises InvalidRequestError where it cannot be written."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{option} {path}: cannot be written ({error.strerror})") from None


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


def clean(text: str) -> str:
    """A text of a model or a file, with no control characters but tabs and line ends."""
    return text.translate(_CONTROLS)


def page() -> Console:
    """A console for tables on standard output."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, width=PAGE_WIDTH, no_color=bool(os.environ.get("NO_COLOR")))


def text_width() -> int:
    """Columns of running text on a page: no more than a terminal has."""
    return min(PAGE_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else PAGE_WIDTH


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error, where that is a terminal; gone once it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    on_terminal = sys.stderr.isatty()
    console = Console(stderr=True, soft_wrap=True)
    # Where both are terminals, what is written must go past the bar; where they are not, it must not land on standard error.
    with Progress(*columns, console=console, transient=True, disable=not on_terminal, redirect_stdout=sys.stdout.isatty()) as bar:
        yield bar


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each thing that is done, as it is called with its name, how much is done and how much there is."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield progress


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
