"""Every error that Linnet raises, in one tree.

LinnetError
├── ModelFileError            a file is missing, truncated, malformed or contradicts itself
│   ├── UnsupportedModelError the file is sound, but holds something this version does not run
│   └── HostileTemplateError  a chat template that is malformed, breaks out or never ends (also a ChatTemplateError)
├── InvalidRequestError       an option or a prompt that cannot be honoured (also a ValueError)
│   ├── ContextLengthError    prompt and answer do not fit; names both numbers
│   └── ChatTemplateError     no chat template, or one that refuses these messages
├── MissingDependencyError    an optional package is needed (also an ImportError)
├── OutOfMemoryError          what was needed, what there is, what to change (also a MemoryError)
├── QueueFullError            as many requests wait as may
├── DeadlineError             a request was not done in its time (also a TimeoutError)
├── CancelledError            the request was cancelled
└── ClosedError               the LLM was closed

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

MAX_MESSAGE = 20_000
"""Characters of the longest message: a file may call a tensor, or its architecture, anything it likes."""


class LinnetError(Exception):
    """Root of the tree: `except LinnetError` catches whatever Linnet raises on purpose.

    Its message is one printable line: what a file or a request put into it can neither break a log's lines nor steer a terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


class ModelFileError(LinnetError):
    """A model file or folder that is missing, truncated, malformed or contradictory."""


class UnsupportedModelError(ModelFileError):
    """A sound file with an architecture, tensor type or setting that this version does not run."""


class InvalidRequestError(LinnetError, ValueError):
    """An option out of range, an unknown option, or a prompt that cannot be used."""


class ContextLengthError(InvalidRequestError):
    """Prompt plus answer exceed the context; the message names both numbers."""


class ChatTemplateError(InvalidRequestError):
    """The model has no chat template, or the template refuses the messages."""


class HostileTemplateError(ModelFileError, ChatTemplateError):
    """A chat template that is wrong by itself: malformed, reaching out of the sandbox, or past its limits."""


class MissingDependencyError(LinnetError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""


class OutOfMemoryError(LinnetError, MemoryError):
    """Memory that was needed and is not there; the message names both and the remedy."""


class QueueFullError(LinnetError):
    """As many requests wait as `max_queue` allows; try again later."""


class DeadlineError(LinnetError, TimeoutError):
    """A request was not done within its `timeout`, or not by the time that somebody would wait for it."""


class CancelledError(LinnetError):
    """The answer of a request that was cancelled was asked for."""


class ClosedError(LinnetError):
    """The LLM was used after `close()`."""


def shortened(value: object) -> str:
    """A value as Python writes it, for a message: 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(message: str) -> str:
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 4] + " ..."
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else " " if c == "\n" else c.encode("unicode_escape").decode() for c in message)
