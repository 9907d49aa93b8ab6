"""`Plan`: data and options that have passed every check that needs no model."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.eval.choices import Choices
from linnet.eval.core import Core
from linnet.eval.core_bundle import CoreTask, read_bundle
from linnet.eval.generation import DEFAULTS, GREEDY, Questions
from linnet.eval.perplexity import Texts
from linnet.eval.rows import Choice, Question, check_rows, read_rows
from linnet.eval.task import Task
from linnet.eval.text_metrics import check_metrics
from linnet.llm import LLM
from linnet.text.tokenizer import Tokenizer

USES: dict[type, tuple[str, tuple[str, ...]]] = {
    Question: ("rows with a reference", ("metrics", "params", "chat", "system", "tokenizer")),
    Choice: ("rows with choices", ("delimiter",)),
    CoreTask: ("a CORE bundle", ()),
}
"""For each kind of row: its name, and the options that apply to it; for texts, those below."""
_TEXTS = ("texts", ("window", "stride"))


@dataclass(frozen=True)
class Plan:
    """name: what the data are called. rows: all of one kind. options: those that were given."""

    name: str
    rows: list[Any]
    limit: int | None
    options: dict[str, Any]

    def task(self, llm: LLM) -> Task:
        """The work for a model. Raises InvalidRequestError if the model cannot do it."""
        first = self.rows[0]
        if isinstance(first, CoreTask):
            return Core(llm, self.rows, self.limit)
        if isinstance(first, Question):
            return Questions(llm, self.rows, **{"metrics": DEFAULTS, "params": GREEDY, **self.options})
        return (Choices if isinstance(first, Choice) else Texts)(llm, self.rows, **self.options)


def plan(
    data: str | Path | Iterable[Mapping[str, Any]], *, columns: Mapping[str, str] | None = None, limit: int | None = None, **options: Any
) -> Plan:
    """Reads and checks data; see `evaluate`. An option that is None was not given."""
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"limit is {limit}; it must be at least 1")
    given = {name: value for name, value in options.items() if value is not None}
    rows: Sequence[Any]
    if isinstance(data, (str, Path)) and os.path.isdir(data):
        if columns is not None:
            raise InvalidRequestError("columns says nothing about a CORE bundle; leave it out")
        rows = read_bundle(Path(data), limit)
    else:
        read = read_rows(Path(data), columns) if isinstance(data, (str, Path)) else data
        rows = check_rows(read, str(data) if isinstance(data, (str, Path)) else "data")[:limit]
    what, used = USES.get(type(rows[0]), _TEXTS)
    useless = next((name for name in given if name not in used), None)
    if useless is not None:
        raise InvalidRequestError(f"{useless} says nothing about {what}; leave it out")
    if "metrics" in used:
        check_metrics(given.get("metrics", DEFAULTS))
    if isinstance(given.get("tokenizer"), (str, Path)):
        given["tokenizer"] = Tokenizer(given["tokenizer"])
    return Plan(str(data) if isinstance(data, (str, Path)) else "rows", list(rows), limit, given)
