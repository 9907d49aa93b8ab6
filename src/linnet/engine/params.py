"""`SamplingParams`: every per-request option, once. Flags, schemas and documentation derive from its fields."""

# ruff: noqa: RUF009 (`option` is dataclasses.field with our metadata)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linnet.errors import InvalidRequestError
from linnet.options import Options, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SAMPLES = 256
MAX_CANDIDATES = 1024
MAX_CHOICES = 4096
MAX_GRAMMAR = 2**19
"""Most characters of a schema, a regular expression or a grammar."""
BEAMS = ("num_beams", "length_penalty", "early_stopping")
ADVISED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Options that a model's generation_config.json may recommend; the shell and the server follow it unless told otherwise."""
CONSTRAINTS = ("json_schema", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, kw_only=True)
class SamplingParams(Options):
    """How to choose tokens and when to stop, for one request. Unknown or out-of-range options raise InvalidRequestError.

    The logits pass through these steps, in this order: logit_bias, repetition, presence and frequency penalties, logits_processor,
    min_tokens, then temperature, top_k, top_p, min_p and the draw; with `choose`, it stands in place of these last five.
    Log-probabilities are the model's own: the log-softmax, in float64, of the logits before any of these steps.

    One of json_schema, json_object, regex, choice and grammar may constrain the answer. A token that would violate the constraint is never
    drawn, and a token that ends the answer is drawn only when the answer is complete; `min_tokens` is ignored if nothing else can follow.
    An answer that ends early (max_tokens, stop) can be incomplete. See each field's help text, and docs/constraints.md.

    num_beams asks for beam search, as in transformers (docs/beams.md): the steps above are then applied to log-probabilities in place of
    logits, and `n` is how many of the best answers are given.
    """

    max_tokens: int | None = option(
        None, "most tokens to generate; None: until the context is full, or that many where it slides; 0: score the prompt", 0
    )
    temperature: float = option(1.0, "0 is greedy; larger is more random", 0.0, 100.0)
    top_k: int = option(0, "sample among the k likeliest tokens; 0: all", 0)
    top_p: float = option(1.0, "sample among the likeliest tokens whose probabilities reach this sum", 0.0, 1.0)
    min_p: float = option(0.0, "drop tokens below this share of the likeliest one's probability", 0.0, 1.0)
    repetition_penalty: float = option(
        1.0, "divide positive and multiply negative logits of seen tokens, prompt included; 1: off", 1e-3, 100.0
    )
    presence_penalty: float = option(0.0, "subtract once from tokens already generated", -100.0, 100.0)
    frequency_penalty: float = option(0.0, "subtract for each time a token was generated", -100.0, 100.0)
    logit_bias: Mapping[int, float] = option({}, "added to the logits of these token ids")
    seed: int | None = option(None, "fixes the draws; None: a fresh seed, reported in the result", 0, 2**64 - 1)
    stop: Sequence[str] = option((), "texts that end the answer; not part of it")
    stop_token_ids: Sequence[int] = option((), "token ids that end the answer")
    ignore_eos: bool = option(False, "go on past the model's end token")
    min_tokens: int = option(0, "no end token and no stop before this many tokens", 0)
    n: int = option(1, "independent samples per prompt", 1, MAX_SAMPLES)
    logprobs: int | None = option(None, "report the log-probability of each token and of this many candidates", 0, MAX_CANDIDATES)
    prompt_logprobs: int | None = option(None, "the same for the prompt's tokens", 0, MAX_CANDIDATES)
    logits_processor: Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]] | None = option(
        None, "callable (token_ids, logits float32 [vocab]) -> logits, run before sampling"
    )
    choose: Callable[[NDArray[np.float32]], int] | None = option(
        None, "callable logits -> token id, in place of temperature, filters and draw"
    )
    no_repeat_ngram_size: int = option(0, "never complete a run of so many tokens that stood before, prompt included; 0: off", 0, 2**20)
    num_beams: int = option(
        1, "beam search that keeps so many answers going, and gives the n best; with a temperature, beams are drawn; 1: off", 1, MAX_SAMPLES
    )
    length_penalty: float = option(1.0, "beams are compared by the sum of their log-probabilities over length**this", -20.0, 20.0)
    early_stopping: bool | str = option(
        False,
        "beam search ends with num_beams finished answers (true), once a better one is unlikely (false), or impossible (never)",
        choices=(False, True, "never"),
    )
    json_schema: str | Mapping[str, Any] | None = option(None, "the answer is JSON that satisfies this schema, an object or its text")
    json_object: bool = option(False, "the answer is a JSON object")
    regex: str | None = option(None, "the answer as a whole matches this regular expression")
    choice: Sequence[str] | None = option(None, "the answer is one of these texts", high=MAX_CHOICES)
    grammar: str | None = option(None, "the answer follows this Lark grammar")
    adapter: str | None = option(None, "LoRA adapter by name", letter="H")
    speculation: str = option(
        "auto",
        "guess tokens ahead, which changes none of them: from the text so far (lookup), by the draft model (draft), or either (auto)",
        choices=("auto", "off", "lookup", "draft"),
    )
    priority: int = option(0, "smaller runs earlier: each step of it is worth 100 places in the queue", -1000, 1000)
    timeout: float | None = option(None, "seconds after which a request that is not done fails with DeadlineError", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}; lower it")
        self._check_beams()
        given = [name for name in CONSTRAINTS if getattr(self, name) not in (None, False)]
        if len(given) > 1:
            raise InvalidRequestError(f"{' and '.join(given)} are given, and one answer follows one of them; drop the others")
        for name in given:
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > MAX_GRAMMAR:
                raise InvalidRequestError(f"{name} has {len(value)} characters; the most is {MAX_GRAMMAR}")
            if value == ():
                raise InvalidRequestError("choice is empty; give at least one text")

    def _check_beams(self) -> None:
        """Raises InvalidRequestError for options that cannot be combined with beam search, or that need it."""
        if self.num_beams == 1:
            for name, default in (("length_penalty", 1.0), ("early_stopping", False)):
                value = getattr(self, name)
                if value != default:
                    raise InvalidRequestError(f"{name} is {value!r} and num_beams 1, so that no beams are compared; raise num_beams")
            return
        if self.n > self.num_beams:
            raise InvalidRequestError(f"n is {self.n}, and num_beams {self.num_beams} give so many answers at most; raise num_beams")
        if self.choose is not None:
            raise InvalidRequestError(f"choose takes one token, and num_beams is {self.num_beams}; leave one of them out")
        if self.speculation in ("lookup", "draft"):
            raise InvalidRequestError(f"speculation is {self.speculation!r}, and beams are not guessed ahead; leave it at 'auto' or 'off'")

    def refuse_beams(self, what: str, instead: str) -> None:
        """Raises InvalidRequestError if params ask for beam search. what: the use that cannot have it, since it gives tokens as they come;
        instead: what the caller can use."""
        if self.num_beams > 1:
            problem = f"num_beams is {self.num_beams}, and {what} gives tokens as they come: beams are known at the end"
            raise InvalidRequestError(f"{problem}; leave num_beams out, or {instead}")

    @property
    def constraint(self) -> tuple[str, Any] | None:
        """The name and value of the option that constrains the answer, or None. A schema is given as its JSON text."""
        given = ((name, getattr(self, name)) for name in CONSTRAINTS)
        return next(((name, value) for name, value in given if value not in (None, False)), None)


def advice(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling options that a generation_config.json recommends, unchecked."""
    return {name: generation_config[name] for name in ADVISED if generation_config.get(name) is not None}


def given_params(given: SamplingParams | None) -> SamplingParams:
    """Those that were given, or the defaults. Raises InvalidRequestError for what is none."""
    if given is None:
        return SamplingParams()
    if not isinstance(given, SamplingParams):
        raise InvalidRequestError(f"params is {given!r}; it must be a SamplingParams")
    return given
