"""The lm-evaluation-harness' model class `linnet`: `lm_eval --model linnet --model_args path=MODEL --tasks ...`

Registered by the entry point `lm_eval.models`, which releases after 0.4.13 look for. With earlier ones, the same command by another
name registers it first: `python -m linnet.compat.lm_eval --model linnet ...`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from linnet.engine.params import SamplingParams
from linnet.errors import ChatTemplateError, InvalidRequestError, MissingDependencyError
from linnet.eval.batch import Generate, Item, Score, run
from linnet.llm import LLM
from linnet.model_options import ModelOptions
from linnet.prompts import read_chat_template
from linnet.text.chat_template import choose

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError:
    raise MissingDependencyError('this needs the lm-evaluation-harness: pip install "linnet[lm-eval]"') from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger("linnet.compat.lm_eval")

R = TypeVar("R")

Answer = tuple[float, bool]
"""A continuation's log-likelihood, and whether it is what the model would greedily say."""

_MARK = "[the answer goes on here] "
"""Put after an answer's beginning, to find where it ends in what a template writes."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class LinnetLM(TemplateLM):  # type: ignore[misc]
    """A model as the harness asks it. Texts are cut into tokens as its `hf` class does: control tokens written out in them count.

    path: as in `LLM`. batch_size: requests that run at once; "auto": as `LLM` has it. max_length: the context, in tokens; what does not
    fit loses its beginning, which a warning says. max_gen_toks: most tokens of an answer where a task does not say. device: as in `LLM`,
    which chooses where it is the harness' default, "cuda:0". options: of `LLM`; an unknown one raises InvalidRequestError.
    """

    def __init__(
        self,
        path: str,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        **options: Any,
    ) -> None:
        super().__init__()
        at_once = max_batch_size if batch_size is None or str(batch_size).startswith("auto") else int(batch_size)
        if at_once is not None:
            options["max_batch"] = at_once
        if device not in (None, "cuda:0"):  # the latter is what the harness says where nobody said anything
            options["device"] = device
        if max_length is not None:
            options["context"] = max_length
        ModelOptions(**options)  # refuses by name what LLM would not know
        self.llm = LLM(str(path), **options)
        if self.llm.tokenizer is None:
            raise InvalidRequestError(f"{path} has no tokenizer, which tasks of texts need; give one with tokenizer=PATH")
        self.tokenizer = self.llm.tokenizer
        self.template = read_chat_template(options.get("chat_template"), self.tokenizer)
        self.max_length, self.max_gen_toks = self.llm.context, max_gen_toks

    # ---- tokens
    @property
    def eot_token_id(self) -> int:
        """The end token, or else the beginning token."""
        found = self.tokenizer.eos_id if self.tokenizer.eos_id is not None else self.tokenizer.bos_id
        if found is None:
            raise InvalidRequestError(f"{self.llm.name} has neither an end nor a beginning token to put before a text")
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.tokenizer.encode(string, bos=False if add_special_tokens is False else None, special=True)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.source.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Without the prompt for an answer, the last message is the answer's beginning. A system message that the template refuses is left
        out, which a warning says, as the `hf` class does."""
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except ChatTemplateError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            logger.warning("the system message is left out, which the chat template does not take: %s", error)
            return self._rendered(rest, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the harness notes with its results."""
        if self.template is None or chat_template is False:
            return super().chat_template(chat_template)  # type: ignore[no-any-return]
        return choose(self.tokenizer.chat_templates, self.template, False, self.llm.name)

    def _rendered(self, messages: list[dict[str, str]], to_answer: bool) -> str:
        if to_answer:
            return self.tokenizer.render_chat_template(messages, chat_template=self.template)
        *before, last = messages
        marked = [*before, {**last, "content": last["content"] + _MARK}]
        text = self.tokenizer.render_chat_template(marked, add_generation_prompt=False, chat_template=self.template)
        begun, mark, rest = text.rpartition(_MARK.strip())
        if not mark:
            raise ChatTemplateError("the chat template does not write the last message as it stands, so that no answer can go on from it")
        return begun if rest.startswith(" ") else begun.rstrip()  # where messages are trimmed, so is this one

    # ---- requests
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Answer]:
        """Of pairs of tokens. Those that follow each other with the same context share its keys and values."""

        def item(group: list[tuple[Any, list[int], list[int]]]) -> Item[list[Answer]]:
            scores = [self._score(context, continuation) for _, context, continuation in group]

            def finish() -> list[Answer]:
                answers = [(score.logprob, score.greedy) for score in scores]
                for (texts, *_), answer in zip(group, answers, strict=True):
                    self.cache_hook.add_partial("loglikelihood", texts, answer)
                return answers

            return Item(scores, finish)

        groups = [list(group) for _, group in groupby(requests, key=lambda request: request[1])]
        return [answer for group in self._all(map(item, groups), len(groups), "loglikelihood", disable_tqdm) for answer in group]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        def item(text: str) -> Item[float]:
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            scores = [self._score(*make_disjoint_window(window)) for window in windows]

            def finish() -> float:
                logprob = float(sum(score.logprob for score in scores))
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), logprob)
                return logprob

            return Item(scores, finish)

        return self._all((item(request.args[0]) for request in requests), len(requests), "loglikelihood_rolling", disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        def item(context: str, options: dict[str, Any]) -> Item[str]:
            params = sampling_params(options, self.max_gen_toks)
            tokens, most = self.tok_encode(context), self.max_length - (params.max_tokens or 0)
            if most < 1:
                raise InvalidRequestError(f"max_gen_toks is {params.max_tokens}; it must be less than the context, {self.max_length}")
            answer = Generate(_last(tokens, most), params)

            def finish() -> str:
                self.cache_hook.add_partial("generate_until", (context, options), answer.completion.text)
                return answer.completion.text

            return Item([answer], finish)

        return self._all((item(*request.args) for request in requests), len(requests), "generate_until", disable_tqdm)

    def _score(self, context: list[int], continuation: list[int]) -> Score:
        if not 0 < len(continuation) <= self.max_length:
            raise InvalidRequestError(f"a continuation has {len(continuation)} tokens; it must have 1 to {self.max_length}, the context")
        tokens = _last([*context, *continuation], self.max_length + 1)  # of the last token nothing is asked
        return Score(tokens, len(tokens) - len(continuation))

    def _all(self, items: Iterable[Item[R]], count: int, what: str, quiet: bool) -> list[R]:
        """What the items give, in their order."""
        with tqdm(total=count, desc=f"Running {what} requests", disable=quiet) as bar:
            found: dict[int, R] = {}
            for index, result in run(self.llm, items):
                found[index] = result
                bar.update()
        return [found[index] for index in range(count)]


def _last(tokens: list[int], most: int) -> list[int]:
    if len(tokens) > most:
        logger.warning("a prompt has %d tokens, of which the last %d are seen", len(tokens), most)
    return tokens[-most:]


def sampling_params(options: dict[str, Any], max_gen_toks: int) -> SamplingParams:
    """The harness' `gen_kwargs` as params: greedy unless `do_sample` or a temperature says otherwise. Raises InvalidRequestError for what
    has no counterpart."""
    rest = dict(options)
    lengths = [rest.pop(name, None) for name in _LENGTHS]
    most = next((int(length) for length in lengths if length is not None), max_gen_toks)
    until = rest.pop("until", None) or []
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    temperature = float(rest.pop("temperature", None) or 0.0)
    draws = rest.pop("do_sample", None)
    if draws is False or (draws is None and temperature == 0.0):
        temperature = 0.0
    elif temperature == 0.0:
        temperature = 1.0
    return SamplingParams(max_tokens=most, temperature=temperature, stop=stop, **rest)


def main() -> None:
    """The harness' own command line, with this class among its models."""
    import lm_eval.models  # noqa: F401  # the registry fills itself only while it is empty
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if "linnet" not in model_registry:
        model_registry.register("linnet", target="linnet.compat.lm_eval:LinnetLM")
    cli_evaluate()


if __name__ == "__main__":
    main()
