"""Every error that Linnet raises, in one tree.

LinnetError
├── ModelFileError            a file is missing, truncated, malformed or contradicts itself
│   └── UnsupportedModelError the file is sound, but holds something this version does not run
├── InvalidRequestError       an option or a prompt that cannot be honoured (also a ValueError)
│   ├── ContextLengthError    prompt and answer do not fit; names both numbers
│   └── ChatTemplateError     no chat template, or one that refuses these messages
├── MissingDependencyError    an optional package is needed (also an ImportError)
├── OutOfMemoryError          what was needed, what there is, what to change (also a MemoryError)
└── ClosedError               the LLM was closed

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class LinnetError(Exception):
    """Root of the tree: `except LinnetError` catches whatever Linnet raises on purpose."""


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


class MissingDependencyError(LinnetError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""


class OutOfMemoryError(LinnetError, MemoryError):
    """Memory that was needed and is not there; the message names both and the remedy."""


class ClosedError(LinnetError):
    """The LLM was used after `close()`."""
