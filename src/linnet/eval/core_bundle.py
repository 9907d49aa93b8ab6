"""The folder of a CORE bundle: core.yaml says which tasks there are, eval_meta_data.csv what chance scores, eval_data/ holds examples."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

from linnet.errors import InvalidRequestError, MissingDependencyError
from linnet.eval.rows import read_rows

Example: TypeAlias = dict[str, Any]

META, CHANCE = "eval_meta_data.csv", "Random baseline"

SHUFFLE_SEED = 1337
"""Seed for shuffling each task's examples, so that the first few are a fair sample."""

FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}
"""The fields of an example, by the kind of task; further ones are allowed."""


@dataclass(frozen=True)
class CoreTask:
    """shots: how many solved examples precede each. delimiter: put between question and answer. chance: the accuracy of guessing, 0 to 1.
    examples: shuffled."""

    label: str
    kind: str
    shots: int
    delimiter: str
    chance: float
    examples: list[Example]


def read_bundle(folder: Path, limit: int | None = None) -> list[CoreTask]:
    """The tasks, with up to `limit` examples each. Raises InvalidRequestError that names the file and what is wrong with it,
    MissingDependencyError without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError('CORE needs PyYAML: pip install "linnet[eval]"') from None
    path = folder / "core.yaml"
    try:
        entries = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRequestError(f"{path} is no YAML ({error})") from None
    tasks = entries.get("icl_tasks") if isinstance(entries, dict) else None
    if not isinstance(tasks, list) or not tasks:
        raise InvalidRequestError(f"{path} has no list icl_tasks; it must name the tasks of the bundle")
    chances = {str(row.get("Eval Task")): str(row.get(CHANCE)) for row in csv.DictReader(StringIO(_text(folder / META)))}
    read = [_task(folder, path, entry, chances, limit) for entry in tasks]
    labels = [task.label for task in read]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InvalidRequestError(f"{path}: two tasks have the label {twice!r}; give each one of its own")
    return read


def _task(folder: Path, path: Path, entry: Any, chances: Mapping[str, str], limit: int | None) -> CoreTask:
    if not isinstance(entry, dict):
        raise InvalidRequestError(f"{path}: {entry!r} is no task; each has label, dataset_uri, icl_task_type and num_fewshot")
    label, uri, kind, shots = (entry.get(name) for name in ("label", "dataset_uri", "icl_task_type", "num_fewshot"))
    delimiter = entry.get("continuation_delimiter", " ")
    shots = shots[0] if isinstance(shots, list) and shots else shots
    if not isinstance(label, str) or not isinstance(uri, str) or not isinstance(delimiter, str):
        raise InvalidRequestError(f"{path}: task {label!r} needs a label, a dataset_uri and a continuation_delimiter that are texts")
    if kind not in FIELDS:
        raise InvalidRequestError(f"{path}: icl_task_type of {label} is {kind!r}; it must be one of {', '.join(FIELDS)}")
    if type(shots) is not int or shots < 0:
        raise InvalidRequestError(f"{path}: num_fewshot of {label} is {shots!r}; it must be a number of examples")
    chance = _chance(folder / META, label, chances)
    data = folder / "eval_data" / uri
    if not data.resolve().is_relative_to((folder / "eval_data").resolve()):
        raise InvalidRequestError(f"{path}: dataset_uri of {label} is {uri!r}, which lies outside the bundle")
    examples = read_rows(data)
    for index, example in enumerate(examples):
        _check(example, kind, f"{data}: row {index}")
    random.Random(SHUFFLE_SEED).shuffle(examples)
    examples = examples[:limit]
    if len(examples) <= shots:
        raise InvalidRequestError(f"{data} has {len(examples)} examples, and {label} shows {shots} others before each; it takes more")
    return CoreTask(label, kind, shots, delimiter, chance, list(examples))


def _check(example: Any, kind: str, place: str) -> None:
    if not isinstance(example, dict):
        raise InvalidRequestError(f"{place} is no object; it must have {', '.join(FIELDS[kind])}")
    for name, type_ in FIELDS[kind].items():
        value = example.get(name)
        if type(value) is not type_:
            raise InvalidRequestError(f"{place}: {name} is {value!r}; it must be a {'number' if type_ is int else type_.__name__}")
        if isinstance(value, list) and (len(value) < 2 or not all(isinstance(text, str) for text in value)):
            raise InvalidRequestError(f"{place}: {name} must be a list of at least two texts")
    options: list[str] = example.get("choices" if kind == "multiple_choice" else "context_options", [])
    if kind != "language_modeling" and not 0 <= example["gold"] < len(options):
        raise InvalidRequestError(f"{place}: gold is {example['gold']}; it must be the number of one of the {len(options)} options")


def _chance(path: Path, label: str, chances: Mapping[str, str]) -> float:
    """Accuracy of guessing; the file has percent."""
    if label not in chances:
        raise InvalidRequestError(f"{path} has no row with {label} under 'Eval Task'; a bundle has one for each task")
    try:
        chance = 0.01 * float(chances[label])
    except ValueError:
        chance = -1.0
    if not 0 <= chance < 1:
        raise InvalidRequestError(f"{path}: {CHANCE!r} of {label} is {chances[label]!r}; it must be a number of percent, less than 100")
    return chance


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidRequestError(
            f"{path}: cannot be read ({error.strerror}); a bundle has core.yaml, eval_meta_data.csv and eval_data/"
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is not UTF-8") from None
