"""Turns what the `tokenizers` library raises into Linnet's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from linnet.errors import ModelFileError


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """`tokenizers` raises bare Exception and, where its Rust code panics, a BaseException of its own."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        raise ModelFileError(f"{what} ({error})") from error
