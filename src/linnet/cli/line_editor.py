"""Where a chat's turns come from: a line editor on a terminal, one line a turn from anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.cli.terminal import note
from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings


def turn_reader(commands: list[str]) -> Callable[[], str]:
    """A function that gives the next turn, and raises EOFError when there is none. `commands` complete with Tab."""
    return _line_editor(commands) if sys.stdin.isatty() else _read_line


def _read_line() -> str:
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"standard input is not UTF-8 (byte 0x{line[error.start]:02x}); convert it first") from None


def _line_editor(commands: list[str]) -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.output import create_output

    session: PromptSession[str] = PromptSession(
        [("bold", "> ")],
        history=_history(),
        key_bindings=_key_bindings(),
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        prompt_continuation="  ",
        output=create_output(always_prefer_tty=True),  # the answers may be on their way to a file
    )
    return session.prompt


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _history() -> History:
    """Kept in $XDG_STATE_HOME/linnet/chat_history (~/.local/state without it), readable by the user alone."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "linnet"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "chat_history"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
    except OSError as error:
        note(f"this session's history is not kept: {folder}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)
