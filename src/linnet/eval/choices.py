"""Multiple choice by likelihood: the model's choice is the continuation that it finds likeliest."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.eval.batch import SCORING, Item, Score, check
from linnet.eval.rows import Choice, check_rows
from linnet.eval.task import Sample, Task, complete, digest
from linnet.eval.text_metrics import Measured
from linnet.llm import LLM
from linnet.text.tokenizer import Tokenizer


def compute_multiple_choice(
    model: LLM, data: Sequence[Mapping[str, Any]], *, delimiter: str = " ", progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """`accuracy`: how often the choice with the highest log-likelihood is right; `accuracy_norm`: the same with log-likelihoods divided by
    the number of characters of the choice. Both as in the lm-evaluation-harness (among equals, the first choice counts).

    data: rows {"prompt", "choices", "answer"}; answer is the number of the right choice, or its text. delimiter: put between the
    prompt and a choice. Raises InvalidRequestError that names the row.
    """
    rows = check_rows(data)
    if not isinstance(rows[0], Choice):
        raise InvalidRequestError("data: row 0 has no choices; rows need prompt, choices and answer")
    task = Choices(model, rows, delimiter)
    figures = task.measure(complete(model, task, progress=progress)).figures
    return {name: float(value) for name, value in figures.items()}


def continuation(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[list[int], int]:
    """The tokens of prompt and text together, and the index of the first token that is scored.

    White space at the prompt's end counts as part of the text, since tokens begin with white space rather than end with it. If the prompt
    has no tokens, the beginning token (or if there is none, the end token) is put before the text.
    """
    bare = prompt.rstrip()
    tokens, before = tokenizer.encode(prompt + text), tokenizer.encode(bare) if bare else []
    if not before:
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if first is None:
            raise InvalidRequestError("the prompt is empty, and the tokenizer has no beginning token to put in its place")
        tokens = [first, *tokenizer.encode(prompt + text, bos=False)]
        before = [first]
    return tokens, min(len(before), len(tokens) - 1)


class Choices(Task):
    """Rows {prompt, choices, answer}."""

    kind = "choice"

    def __init__(self, llm: LLM, rows: Sequence[Choice], delimiter: str = " ") -> None:
        if llm.tokenizer is None:
            raise InvalidRequestError("texts need a tokenizer, and this model has none; open it with tokenizer=")
        self.rows, self.delimiter, self.tokenizer = rows, delimiter, llm.tokenizer
        self.settings = {"delimiter": delimiter}
        self.digest = digest([(row.prompt, row.choices, row.answer) for row in rows])
        self.spans = [[self._span(llm, place, row.prompt, choice) for choice in row.choices] for place, row in enumerate(rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Item[Sample]:
        row = self.rows[index]
        scores = [Score(tokens, start) for tokens, start in self.spans[index]]

        def finish() -> Sample:
            logprobs = [score.logprob for score in scores]
            normalised = [logprob / len(choice) for logprob, choice in zip(logprobs, row.choices, strict=True)]
            chosen, chosen_norm = _best(logprobs), _best(normalised)
            return {**row.named, "logprobs": logprobs, "chosen": chosen, "chosen_norm": chosen_norm, "answer": row.answer}

        return Item(scores, finish)

    def measure(self, samples: Sequence[Sample]) -> Measured:
        each = {
            name: [float(sample[chosen] == sample["answer"]) for sample in samples]
            for name, chosen in (("accuracy", "chosen"), ("accuracy_norm", "chosen_norm"))
        }
        return Measured({name: sum(values) / len(values) for name, values in each.items()}, each)

    def shown(self, row: int, samples: Sequence[Sample]) -> dict[str, str]:
        choices, sample = self.rows[row].choices, samples[row]
        chosen = [f"{text} ({logprob:.2f})" for text, logprob in zip(choices, sample["logprobs"], strict=True)]
        named = {"right": choices[sample["answer"]], "chosen": choices[sample["chosen"]], "choices and log-likelihoods": "\n".join(chosen)}
        return {"prompt": self.rows[row].prompt, **named}

    def _span(self, llm: LLM, place: int, prompt: str, choice: str) -> tuple[array[int], int]:
        """The tokens, and where the choice begins. A request that the model cannot take is refused here, before any has run."""
        tokens, start = continuation(self.tokenizer, prompt, self.delimiter + choice)
        check(llm, tokens[:-1], SCORING, f"row {place}")
        return array("l", tokens), start


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
