"""`SampleLog`: what an evaluation has so far, line by line in a file, so that a run that stops can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from linnet.errors import InvalidRequestError

_VERSION = 1
_REASONS = {
    "linnet_samples": "it was written by another version of Linnet",
    "kind": "the data is of another kind",
    "data": "the data has changed since",
    "count": "the data has changed since",
    "model": "the model has changed since, its weights, their types or its tokenizer, or the processor computes otherwise",
}


class SampleLog:
    """A file of JSON lines: first what was run, then an object for every item that is done, in the order in which they were.

    resume: go on where the file ends, if it is there. Raises InvalidRequestError where that run was of other data, another model or
    other settings, and says which; where the file is damaged or cannot be written; and, without `resume`, where an unfinished run is
    there.
    """

    def __init__(self, path: Path, what: dict[str, Any], resume: bool) -> None:
        self.path, self.samples = path, dict[int, dict[str, Any]]()
        self.what = {"linnet_samples": _VERSION, **what}
        try:
            lines = path.read_text("utf-8").split("\n") if path.exists() else []
            whole = self._read(lines, resume)
            self._file: BinaryIO = path.open("r+b" if whole else "wb")
        except OSError as error:
            raise InvalidRequestError(f"{path}: cannot be written ({error.strerror})") from None
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{path} is no file of samples; name another") from None
        if whole:
            self._file.truncate(self._file.seek(sum(len(line.encode()) + 1 for line in whole)))
        else:
            self._write(self.what)

    def add(self, index: int, sample: dict[str, Any]) -> None:
        self.samples[index] = sample
        self._write({"index": index, **sample})

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, lines: list[str], resume: bool) -> list[str]:
        """The lines of a run to go on with; none where there is none, or it is done and another was asked for."""
        if not any(lines):
            return []
        whole = lines[:-1]  # what follows the last line end was cut off as it was written
        entries = [self._entry(number, line) for number, line in enumerate(whole, 1)]
        if not entries or "linnet_samples" not in entries[0]:
            raise InvalidRequestError(f"{self.path} is no file of samples; name another")
        done = len({entry.get("index") for entry in entries[1:]})
        if not resume:
            if done < entries[0].get("count", 0):
                raise InvalidRequestError(
                    f"{self.path} holds {done} of {entries[0]['count']} items of a run that stopped; resume it, or delete the file"
                )
            return []
        self._compare(entries[0])
        for number, entry in enumerate(entries[1:], 2):
            index = entry.pop("index", None)
            if type(index) is not int or not 0 <= index < self.what["count"]:
                raise self._damaged(number)
            self.samples[index] = entry
        return whole

    def _entry(self, number: int, line: str) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise self._damaged(number)
        return entry

    def _compare(self, then: dict[str, Any]) -> None:
        """Refuses to go on with another run, and says what differs."""
        for name, reason in _REASONS.items():
            if then.get(name) != self.what[name]:
                raise InvalidRequestError(f"{self.path} cannot be resumed: {reason}; start anew with another file")
        before, now = then.get("settings", {}), json.loads(json.dumps(self.what["settings"]))
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise InvalidRequestError(
                    f"{self.path} cannot be resumed: {name} was {before.get(name)!r} and is {now.get(name)!r}; start anew with another file"
                )

    def _damaged(self, number: int) -> InvalidRequestError:
        return InvalidRequestError(f"{self.path}: line {number} is damaged; delete the line, and its item is run again")

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
            self._file.flush()
        except OSError as error:
            raise InvalidRequestError(f"{self.path}: cannot be written ({error.strerror}); what it holds can be resumed") from None
