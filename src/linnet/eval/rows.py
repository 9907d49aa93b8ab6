"""Evaluation data: rows of a file or in memory, checked whole before anything runs."""

from __future__ import annotations

import csv
import difflib
import json
import os.path
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

from linnet.errors import InvalidRequestError, shortened
from linnet.prompts import Prompt


@dataclass(frozen=True)
class Row:
    """id: what the data call it, if they do."""

    id: Any = field(default=None, kw_only=True)

    @property
    def named(self) -> dict[str, Any]:
        return {} if self.id is None else {"id": self.id}


@dataclass(frozen=True)
class Question(Row):
    """A prompt, and the text or texts that a good answer equals or resembles; `several`: whether the row has a list of them."""

    prompt: Prompt
    references: tuple[str, ...]
    several: bool


@dataclass(frozen=True)
class Choice(Row):
    """A prompt and its possible continuations, of which number `answer` is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Text(Row):
    """A text whose likelihood is asked."""

    text: str


Rows: TypeAlias = list[Question] | list[Choice] | list[Text]

FIELDS = {"question": ("prompt", "reference"), "choice": ("prompt", "choices", "answer"), "text": ("text",)}
"""The fields of each kind of row; beside them, a row may have an "id"."""

_ALL = (*dict.fromkeys(name for names in FIELDS.values() for name in names), "id")
_NUMBER = re.compile(r"[0-9]{1,9}")
_KINDS = "{prompt, reference}, {prompt, choices, answer} or {text}"


def read_rows(path: Path, columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of a .json (a list of objects), .jsonl, .csv (with a header) or .txt file (one text), as they stand.

    columns: which column is meant by each of our fields; others are then left aside. Raises InvalidRequestError that says where it is
    wrong: no such file, no rows, a line that is no object, a row of CSV with too few or too many cells, a column that is missing.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv, ".txt": _read_text}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        kinds = f"data is read from {', '.join(readers)} files, and from the folder of a CORE bundle"
        raise InvalidRequestError(f"{path}: {kinds if os.path.exists(path) else 'there is no such file or folder'}")
    rows = reader(path, _decoded(path))
    return rows if columns is None else _renamed(path, rows, columns)


def check_rows(rows: Iterable[Any], where: str = "data") -> Rows:
    """The rows as questions, choices or texts: whichever the fields of the first say, and then all.

    Raises InvalidRequestError that names the row: none at all, no object, a field missing, unknown, of a wrong type or empty.
    """
    checked: list[Any] = []
    kind = ""
    for index, row in enumerate(rows):
        place = f"{where}: row {index}"
        if not isinstance(row, Mapping):
            raise InvalidRequestError(f"{place} is {shortened(row)}; it must be an object with the fields {_KINDS}")
        kind = kind or _kind(row, place)
        for name in row:
            if name not in (*FIELDS[kind], "id"):
                raise InvalidRequestError(f"{place} has an unknown field {name!r}{_hint(str(name), kind)}")
        for name in FIELDS[kind]:
            if row.get(name) is None:
                raise InvalidRequestError(f"{place} has no {name!r}; like row 0, it needs {' and '.join(FIELDS[kind])}")
        checked.append(_CHECKS[kind](row, place))
    if not checked:
        raise InvalidRequestError(f"{where} has no rows; give at least one of {_KINDS}")
    return checked


def _kind(row: Mapping[str, Any], place: str) -> str:
    """By the fields of the first row."""
    for kind, name in (("choice", "choices"), ("question", "reference"), ("text", "text")):
        if name in row:
            return kind
    unknown = next((field for field in row if field not in _ALL), None)
    if "prompt" in row:
        other = "" if unknown is None else f"; {unknown!r} is unknown{_close(str(unknown))}"
        raise InvalidRequestError(f"{place} has a prompt and neither a 'reference' nor 'choices' with an 'answer'; add them{other}")
    hint = " has no fields" if unknown is None else f" has an unknown field {unknown!r}{_close(str(unknown))}"
    raise InvalidRequestError(f"{place}{hint}; rows are {_KINDS}, and --columns says which column is which")


def _hint(name: str, kind: str) -> str:
    return f"{_close(name)}; rows of this kind have {', '.join(FIELDS[kind])}, and perhaps id"


def _close(name: str) -> str:
    close = difflib.get_close_matches(name, _ALL, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _question(row: Mapping[str, Any], place: str) -> Question:
    reference, prompt = row["reference"], row["prompt"]
    several = isinstance(reference, (list, tuple))
    references = tuple(_text(text, f"{place}: reference") for text in (reference if several else [reference]))
    if not references:
        raise InvalidRequestError(f"{place}: reference is an empty list; give at least one text")
    if isinstance(prompt, str):
        prompt = _text(prompt, f"{place}: prompt", empty=False)
    elif not isinstance(prompt, (list, tuple)) or not prompt:
        raise InvalidRequestError(f"{place}: prompt is {shortened(prompt)}; it must be a text, messages or token ids")
    return Question(prompt, references, several, id=row.get("id"))


def _choice(row: Mapping[str, Any], place: str) -> Choice:
    choices, answer = row["choices"], row["answer"]
    if isinstance(choices, str):  # a cell of CSV
        try:
            choices = json.loads(choices)
        except (ValueError, RecursionError):
            raise InvalidRequestError(f'{place}: choices is {shortened(choices)}; in CSV it must be a JSON list: ["yes", "no"]') from None
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        raise InvalidRequestError(f"{place}: choices is {shortened(choices)}; it must be a list of at least two texts")
    texts = tuple(_text(text, f"{place}: choices", empty=False) for text in choices)
    if answer in texts:
        answer = texts.index(answer)
    elif isinstance(answer, str) and _NUMBER.fullmatch(answer.strip()):
        answer = int(answer)
    if type(answer) is not int or not 0 <= answer < len(texts):
        raise InvalidRequestError(
            f"{place}: answer is {shortened(answer)}; it must be one of the choices, or its number from 0 to {len(texts) - 1}"
        )
    return Choice(_text(row["prompt"], f"{place}: prompt", empty=False), texts, answer, id=row.get("id"))


def _plain_text(row: Mapping[str, Any], place: str) -> Text:
    return Text(_text(row["text"], f"{place}: text", empty=False), id=row.get("id"))


_CHECKS = {"question": _question, "choice": _choice, "text": _plain_text}


def _text(value: Any, place: str, empty: bool = True) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{place} is {shortened(value)}; it must be a text")
    if not value and not empty:
        raise InvalidRequestError(f"{place} is empty; it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise InvalidRequestError(f"{place} has a lone surrogate (U+{code:04X}), which no UTF-8 can hold; remove it") from None
    return value


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise InvalidRequestError(f"{path} is not UTF-8 ({byte}); convert it first, with iconv for example") from None
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be read ({error.strerror})") from None


def _read_json(path: Path, text: str) -> list[dict[str, Any]]:
    rows = _parsed(text, str(path))
    if not isinstance(rows, list):
        raise InvalidRequestError(f"{path} holds {shortened(rows)}; it must be a list of objects (one object a line is a .jsonl file)")
    return rows


def _read_jsonl(path: Path, text: str) -> list[dict[str, Any]]:
    lines = enumerate(text.split("\n"), 1)
    return [_parsed(line, f"{path}: line {number}") for number, line in lines if line.strip()]


def _read_text(path: Path, text: str) -> list[dict[str, Any]]:
    return [{"text": text}] if text else []


def _read_csv(path: Path, text: str) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)  # a cell may hold a whole document
    try:
        reader = csv.reader(StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        repeated = next((name for name in header if header.count(name) > 1), None)
        if repeated is not None:
            raise InvalidRequestError(f"{path}: line 1 names the column {repeated!r} twice; give each a name of its own")
        rows = []
        for cells in reader:
            if cells and len(cells) != len(header):
                raise InvalidRequestError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells and the header {len(header)}; quote cells with commas"
                )
            if cells:
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InvalidRequestError(f"{path}: line {reader.line_num} is no CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{place} is no JSON ({error})") from None


def _renamed(path: Path, rows: Sequence[Any], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    for name in columns:
        if name not in _ALL:
            raise InvalidRequestError(f"--columns names a field {name!r}{_close(name)}; the fields are {', '.join(_ALL)}")
    for index, row in enumerate(rows):
        missing = [column for column in columns.values() if isinstance(row, Mapping) and column not in row]
        if missing:
            raise InvalidRequestError(f"{path}: row {index} has no column {missing[0]!r}; it has {shortened(', '.join(map(str, row)))}")
    return [{name: row[column] for name, column in columns.items()} if isinstance(row, Mapping) else row for row in rows]
