"""Answers to prompts, measured against references."""

from __future__ import annotations

import json
import logging
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from linnet.engine.params import SamplingParams
from linnet.errors import InvalidRequestError, LinnetError
from linnet.eval.batch import SCORING, Generate, Item, Score, check
from linnet.eval.perplexity import Perplexity
from linnet.eval.rows import Question
from linnet.eval.task import Sample, Task, digest
from linnet.eval.text_metrics import Measured, Metric, check_metrics, measure
from linnet.llm import LLM
from linnet.prompts import Prompt
from linnet.text.tokenizer import Tokenizer

logger = logging.getLogger("linnet.eval")

DEFAULTS = ("exact_match", "bleu", "rouge")
"""The metrics of answers if none are named."""

GREEDY = SamplingParams(temperature=0.0, max_tokens=256)
"""How answers are generated unless the caller says otherwise."""


class Questions(Task):
    """Rows {prompt, reference}.

    chat: a prompt that is a text becomes the user's message, after the `system` message, if there is one. tokenizer: replaces the model's
    own, for prompts and answers. Raises as `check_metrics`, and InvalidRequestError for options that cannot be combined.
    """

    kind = "question"

    def __init__(
        self,
        llm: LLM,
        rows: Sequence[Question],
        metrics: Sequence[str | Metric] = DEFAULTS,
        params: SamplingParams = GREEDY,
        chat: bool = False,
        system: str | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.other = None if tokenizer is llm.tokenizer else tokenizer
        if self.other is None and llm.tokenizer is None:
            raise InvalidRequestError("answers need a tokenizer, and this model has none; give one")
        if self.other is not None and params.stop:
            raise InvalidRequestError("stop texts are found by the model's own tokenizer; open the model with tokenizer=, not another here")
        if params.n != 1:
            raise InvalidRequestError(f"n is {params.n}, and one answer to each prompt is measured; leave it at 1")
        if system is not None and not chat:
            raise InvalidRequestError("a system message is for chat prompts; set chat too")
        self.metrics, self.params = check_metrics(metrics), params
        self.rows, self.chat, self.system = rows, chat, system
        self.llm, self.scored = llm, "perplexity" in self.metrics
        self.settings = {**_changed(params), "chat": chat, "system": system, "perplexity": self.scored}
        self.digest = digest([(row.prompt, row.references) for row in rows])
        self.prompts = [self._tokens(place, row) for place, row in enumerate(rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Item[Sample]:
        row, ids = self.rows[index], self.prompts[index]
        answer = Generate(ids.tolist(), self.params)
        if not self.scored:
            return Item([answer], lambda: self._sample(row, answer))
        score = Score([*ids, *self._reference(row)], len(ids))
        return Item([answer, score], lambda: {**self._sample(row, answer), "logprob": score.logprob, "tokens": len(score.logprobs)})

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """The figures of every metric; if one raises an error, the others are kept."""
        predictions = [str(sample["prediction"]) for sample in samples]
        whole = Measured({}, {})
        for name, metric in self.metrics.items():
            try:
                measured = self._likelihood(samples) if metric == "perplexity" else measure(metric, predictions, self.rows)
            except (Exception, SystemExit) as error:
                logger.warning("metric %s failed", name, exc_info=True)
                whole.failed[name] = f"{type(error).__name__}: {error}"
            else:
                whole.figures.update(measured.figures)
                whole.each.update(measured.each)
        return whole

    def shown(self, row: int, samples: Sequence[Sample]) -> dict[str, str]:
        question = self.rows[row]
        prompt = question.prompt if isinstance(question.prompt, str) else json.dumps(question.prompt, ensure_ascii=False, default=str)
        return {"prompt": prompt, "reference": "\n".join(question.references), "answer": samples[row]["prediction"]}

    def _likelihood(self, samples: Sequence[Sample]) -> Measured:
        """The likelihood of the first reference of each row, given its prompt."""
        sizes = [len(row.references[0].encode()) for row in self.rows]
        total = Perplexity.of(-math.fsum(s["logprob"] for s in samples), sum(s["tokens"] for s in samples), sum(sizes))
        each = [s["logprob"] / size / math.log(2) for s, size in zip(samples, sizes, strict=True)]
        return Measured(total.figures(), {"bits_per_byte": each})

    def _tokens(self, place: int, row: Question) -> array[int]:
        """The tokens of a row's prompt. One that the model cannot take is refused here, before any has run."""
        ids = self._read(row.prompt, f"row {place}")
        check(self.llm, ids, self.params, f"row {place}")
        if self.scored:
            reference = self._reference(row)
            if not reference:
                raise InvalidRequestError(f"row {place}: the reference is empty, and has no perplexity; leave out the row or the metric")
            check(self.llm, [*ids, *reference[:-1]], SCORING, f"row {place}, the prompt and its reference")
        return array("l", ids)

    def _read(self, prompt: Prompt, place: str) -> list[int]:
        """Token ids by the given tokenizer, or else as the model reads prompts."""
        if isinstance(prompt, str) and self.chat:
            user = {"role": "user", "content": prompt}
            prompt = [user] if self.system is None else [{"role": "system", "content": self.system}, user]
        elif self.system is not None:
            raise InvalidRequestError(f"{place}: a system message goes before prompts that are texts, and this one is none; leave it out")
        try:
            if self.other is None:
                return self.llm.tokenize(prompt)
            if isinstance(prompt, str):
                return self.other.encode(prompt)
            messages = [message for message in prompt if isinstance(message, Mapping)]
            return self.other.apply_chat_template(messages) if len(messages) == len(prompt) else self.llm.tokenize(prompt)
        except LinnetError as error:
            raise type(error)(f"{place}: {error}") from None

    def _reference(self, row: Question) -> list[int]:
        return self._tokenizer.encode(row.references[0], bos=False)

    @property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.other or self.llm.tokenizer
        assert tokenizer is not None
        return tokenizer

    def _sample(self, row: Question, answer: Generate) -> Sample:
        completion = answer.completion
        return {
            **row.named,
            "prediction": completion.text if self.other is None else self.other.decode(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.usage.prompt_tokens,
            "completion_tokens": completion.usage.completion_tokens,
        }


def _changed(params: SamplingParams) -> dict[str, Any]:
    """The options that are not left at their defaults, as JSON."""
    default = SamplingParams()
    values = {f.name: getattr(params, f.name) for f in fields(params) if getattr(params, f.name) != getattr(default, f.name)}
    return {name: value if isinstance(value, (int, float, str, list, type(None))) else repr(value) for name, value in values.items()}
