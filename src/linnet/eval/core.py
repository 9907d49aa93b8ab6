"""CORE, DataComp-LM's measure of base models (Li et al., 2024), as nanochat runs it: 22 in-context tasks, scored relative to chance."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.eval.batch import Item, Score
from linnet.eval.core_bundle import FIELDS, CoreTask, Example, read_bundle
from linnet.eval.task import Sample, Task, complete, digest
from linnet.eval.text_metrics import Measured
from linnet.llm import LLM

SHOT_SEED = 1234
"""The seed of an example's shots is this plus its number."""


def compute_core(
    model: LLM, bundle: str | Path, *, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """`core`, and for each task `LABEL` its accuracy and `LABEL_centered`: (accuracy - chance) / (1 - chance), of which core is the mean.

    bundle: a folder with core.yaml, eval_meta_data.csv and eval_data/. limit: only so many examples of each task, drawn as nanochat
    draws them. A prompt longer than the context loses its beginning, as there; the number of such is `cropped`.
    Raises InvalidRequestError that says which file is wrong, and where.
    """
    task = Core(model, read_bundle(Path(bundle), limit), limit)
    figures = task.measure(complete(model, task, progress=progress)).figures
    return {name: float(value) for name, value in figures.items()}


class Core(Task):
    """Every example of every task of a bundle."""

    kind = "core"

    def __init__(self, llm: LLM, tasks: Sequence[CoreTask], limit: int | None = None) -> None:
        self.tasks = tasks
        if llm.tokenizer is None:
            raise InvalidRequestError("CORE needs a tokenizer, and this model has none; open it with tokenizer=")
        first = llm.tokenizer.eos_id if llm.tokenizer.bos_id is None else llm.tokenizer.bos_id
        if first is None:
            raise InvalidRequestError("CORE begins each prompt with a beginning token, and this model's tokenizer has none")
        self.tokenizer, self.before, self.most = llm.tokenizer, first, llm.context
        self.ends = list(accumulate(len(task.examples) for task in self.tasks))
        self.settings: dict[str, Any] = {"limit": limit}
        self.digest = digest([(task.label, task.kind, task.shots, task.delimiter, task.chance, task.examples) for task in self.tasks])

    def __len__(self) -> int:
        return self.ends[-1]

    def item(self, index: int) -> Item[Sample]:
        place = bisect_right(self.ends, index)
        task = self.tasks[place]
        number = index - (self.ends[place] - len(task.examples))
        prompts = [self._encoded(prompt) for prompt in prompts_of(task, number)]
        if task.kind == "language_modeling":
            spans = [(prompts[1], _alike(prompts))]
        elif task.kind == "schema":
            ending = _alike([prompt[::-1] for prompt in prompts])
            spans = [(prompt, len(prompt) - ending) for prompt in prompts]
        else:
            spans = [(prompt, _alike(prompts)) for prompt in prompts]
        scores = [self._score(*span) for span in spans]
        cropped = sum(len(tokens) > self.most for tokens, _ in spans)

        def finish() -> Sample:
            said: dict[str, Any] = {"task": task.label, "example": number, "cropped": cropped}
            losses = [-score.logprob / len(score.logprobs) for score in scores]
            if task.kind == "language_modeling":
                return {**said, "loss": losses[0], "correct": scores[0].greedy}
            chosen = min(range(len(losses)), key=losses.__getitem__)
            return {**said, "losses": losses, "chosen": chosen, "correct": chosen == task.examples[number]["gold"]}

        return Item(scores, finish)

    def measure(self, samples: Sequence[Sample]) -> Measured:
        figures: dict[str, float | str] = {}
        centered = []
        start = 0
        for task, end in zip(self.tasks, self.ends, strict=True):
            accuracy = sum(sample["correct"] for sample in samples[start:end]) / (end - start)
            centered.append((accuracy - task.chance) / (1 - task.chance))
            figures |= {task.label: accuracy, f"{task.label}_centered": centered[-1]}
            start = end
        cropped = sum(sample["cropped"] for sample in samples)
        core = sum(centered) / len(centered)
        return Measured({"core": core, **figures, "cropped": cropped}, {"correct": [float(sample["correct"]) for sample in samples]})

    def shown(self, row: int, samples: Sequence[Sample]) -> dict[str, str]:
        place = bisect_right(self.ends, row)
        task, sample = self.tasks[place], samples[row]
        example = {name: str(task.examples[sample["example"]][name]) for name in FIELDS[task.kind]}
        return {"task": task.label, **example, "chosen": str(sample.get("chosen", "another continuation"))}

    def _encoded(self, prompt: str) -> list[int]:
        return [self.before, *self.tokenizer.encode(prompt, bos=False)]

    def _score(self, tokens: list[int], start: int) -> Score:
        """The score of tokens[start:]; of the last token if there are none, as for a choice that all others begin with."""
        crop = max(0, len(tokens) - self.most)
        return Score(tokens[crop:], max(1, min(start, len(tokens) - 1) - crop))


def prompts_of(task: CoreTask, number: int) -> list[str]:
    """The prompts for an example: one for each choice or context, or (language modelling) one without and one with the continuation.
    Each begins with the task's shots: other, solved examples, which are drawn anew for every example."""
    example, examples = task.examples[number], task.examples
    # Draws positions in the list of all others: the same draw as from the list itself, which then need not be made.
    drawn = random.Random(SHOT_SEED + number).sample(range(len(examples) - 1), task.shots) if task.shots else []
    shots = "".join(f"{_solved(task, examples[place + (place >= number)])}\n\n" for place in drawn)
    if task.kind == "multiple_choice":
        return [f"{shots}{example['query']}{task.delimiter}{choice}" for choice in example["choices"]]
    if task.kind == "schema":
        return [f"{shots}{context}{task.delimiter}{example['continuation']}" for context in example["context_options"]]
    without = f"{shots}{example['context'].strip()}{task.delimiter}"
    # White space at its end would become part of the continuation's first token.
    return [without.strip(), without + example["continuation"]]


def _solved(task: CoreTask, shot: Example) -> str:
    if task.kind == "multiple_choice":
        return f"{shot['query']}{task.delimiter}{shot['choices'][shot['gold']]}"
    if task.kind == "schema":
        return f"{shot['context_options'][shot['gold']]}{task.delimiter}{shot['continuation']}"
    return f"{shot['context'].strip()}{task.delimiter}{shot['continuation']}"


def _alike(prompts: Sequence[Sequence[int]]) -> int:
    """The length of their common prefix."""
    least = min(len(prompt) for prompt in prompts)
    return next((i for i in range(least) if any(prompt[i] != prompts[0][i] for prompt in prompts)), least)
