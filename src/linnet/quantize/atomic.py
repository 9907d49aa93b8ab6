"""Writes files and folders atomically: under another name beside their place, then renamed when they are complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linnet.errors import InvalidRequestError


def check_output(path: Path, force: bool) -> None:
    """Raises InvalidRequestError if no file can be written at `path`, or if something is there that must not be replaced."""
    _check_parent(path)
    if os.path.isdir(path):
        raise InvalidRequestError(f"{path}: is a folder; give the name of a file")
    if os.path.lexists(path) and not force:
        raise InvalidRequestError(f"{path}: exists already; --force (force=True) replaces it")


def check_folder(path: Path, force: bool) -> None:
    """As `check_output` for a folder. Only a model's folder or an empty one is ever replaced."""
    _check_parent(path)
    if not os.path.lexists(path):
        return
    try:
        replaceable = os.path.isdir(path) and not path.is_symlink() and (not os.listdir(path) or os.path.isfile(path / "config.json"))
    except OSError as error:
        reason = f"exists already and cannot be looked into ({error.strerror})"
        raise InvalidRequestError(f"{path}: {reason}; choose another name, or allow it (chmod u+rwx)") from None
    if not replaceable:
        raise InvalidRequestError(f"{path}: exists already and is no model's folder; choose another name")
    if not force:
        raise InvalidRequestError(f"{path}: exists already; --force (force=True) replaces it")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise InvalidRequestError(f"{path}: exists already and may not be changed; choose another name, or allow it (chmod u+rwx)")


def check_apart(outputs: Mapping[str, Path], inputs: Mapping[str, Path]) -> None:
    """Raises InvalidRequestError if two outputs are the same place, or an output is or contains an input. The keys are the user's names
    for them."""
    places: dict[Path, str] = {}
    for name, path in outputs.items():
        place = path.resolve()
        if place in places:
            raise InvalidRequestError(f"{places[place]} and {name} are both {path}; give them different names")
        places[place] = name
    for name, path in inputs.items():
        for place in (path.resolve(), *path.resolve().parents):
            if place in places:
                raise InvalidRequestError(f"{places[place]} would take the place of {name} ({path}); choose another name")


def _check_parent(path: Path) -> None:
    parent = path.parent
    if not os.path.isdir(parent):
        raise InvalidRequestError(f"{path}: the folder {parent} does not exist; make it, or choose another place")
    if not os.access(parent, os.W_OK):
        raise InvalidRequestError(f"{path}: nothing can be written to {parent}; choose another place")


def check_space(path: Path, needed: int) -> None:
    """Raises InvalidRequestError if there is less free space than the output takes."""
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise InvalidRequestError(
            f"{path}: takes {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there; free some, or choose another place"
        )


@contextmanager
def whole_file(path: Path, force: bool) -> Iterator[BinaryIO]:
    """A file to write, which gets the name `path` once everything is on disk; if anything fails, nothing is left. force: replaces a file
    that is there.

    Raises InvalidRequestError if the system refuses to write (above all, if the disk is full), or without `force`, if a file of that name
    has been made in the meantime.
    """
    unfinished = _unfinished(path)
    try:
        with unfinished.open("xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put(unfinished, path, force)
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _put(finished: Path, path: Path, force: bool) -> None:
    """Renames a finished file, in one step that replaces nothing unless `force`."""
    try:
        if not force:
            try:
                os.link(finished, path)
                return
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links: the name is taken by an empty file, which is ours
                path.open("xb").close()
        os.replace(finished, path)
    except FileExistsError:
        raise _has_come(path) from None


@contextmanager
def whole_folder(path: Path, force: bool) -> Iterator[Path]:
    """As `whole_file` for a folder."""
    unfinished = _unfinished(path)
    replaced = unfinished.with_suffix(".old")
    try:
        unfinished.mkdir()
        yield unfinished
        if os.path.lexists(path):
            if not force:
                raise _has_come(path)
            os.rename(path, replaced)
        os.rename(unfinished, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):
            if os.path.lexists(replaced) and not os.path.lexists(path):  # stopped between the two renames: the old folder goes back
                os.rename(replaced, path)
        for leftover in (unfinished, replaced) if os.path.lexists(path) else (unfinished,):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(OSError):
                    leftover.unlink()


def _unfinished(path: Path) -> Path:
    return path.parent / f".{path.name[:100]}.{secrets.token_hex(4)}.part"


def _has_come(path: Path) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: has come to be there in the meantime; --force (force=True) replaces it")


def _not_written(path: Path, error: OSError) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: cannot be written ({error.strerror or error}); nothing is left of it")


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, on systems that can."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
