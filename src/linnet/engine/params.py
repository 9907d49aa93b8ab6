"""`SamplingParams`: every per-request option, once. Flags, schemas and documentation derive from its fields."""

# ruff: noqa: RUF009 (_option is dataclasses.field with our metadata)
from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_SAMPLES = 256


def _option(default: Any, help: str, low: float | None = None, high: float | None = None, letter: str | None = None) -> Any:
    """A field with its documentation and closed range; `letter` marks an option that is not built yet."""
    metadata = {"help": help, "low": low, "high": high, "letter": letter}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose and when to stop, per request. Unknown or out-of-range options raise InvalidRequestError.

    Logits pass, in this order, through: logit_bias, repetition, presence and frequency penalties,
    logits_processor, min_tokens, then temperature, top_k, top_p, min_p, and the draw (or `choose`). Log-probabilities
    are those of the model itself: log-softmax, in float64, of the logits before any of this.
    See each field's help text.
    """

    max_tokens: int | None = _option(None, "most tokens to generate; None: until the context is full; 0: score the prompt", 0)
    temperature: float = _option(1.0, "0 is greedy; larger is more random", 0.0, 100.0)
    top_k: int = _option(0, "sample among the k likeliest tokens; 0: all", 0)
    top_p: float = _option(1.0, "sample among the likeliest tokens whose probabilities reach this sum", 0.0, 1.0)
    min_p: float = _option(0.0, "drop tokens below this share of the likeliest one's probability", 0.0, 1.0)
    repetition_penalty: float = _option(
        1.0, "divide positive and multiply negative logits of seen tokens, prompt included; 1: off", 1e-3, 100.0
    )
    presence_penalty: float = _option(0.0, "subtract once from tokens already generated", -100.0, 100.0)
    frequency_penalty: float = _option(0.0, "subtract for each time a token was generated", -100.0, 100.0)
    logit_bias: Mapping[int, float] = _option({}, "added to the logits of these token ids")
    seed: int | None = _option(None, "fixes the draws; None: a fresh seed, reported in the result", 0, 2**64 - 1)
    stop: Sequence[str] = _option((), "texts that end the answer; not part of it")
    stop_token_ids: Sequence[int] = _option((), "token ids that end the answer")
    ignore_eos: bool = _option(False, "go on past the model's end token")
    min_tokens: int = _option(0, "no end token and no stop before this many tokens", 0)
    n: int = _option(1, "independent samples per prompt", 1, MAX_SAMPLES)
    logprobs: int | None = _option(None, "report the log-probability of each token and of this many candidates", 0, 1024)
    prompt_logprobs: int | None = _option(None, "the same for the prompt's tokens", 0, 1024)
    logits_processor: Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]] | None = _option(
        None, "callable (token_ids, logits float32 [vocab]) -> logits, run before sampling"
    )
    choose: Callable[[NDArray[np.float32]], int] | None = _option(None, "callable logits -> token id, in place of sampling")
    no_repeat_ngram_size: int = _option(0, "forbid repeating any n-gram of this size", letter="G2")
    num_beams: int = _option(1, "beam search width", letter="G2")
    length_penalty: float = _option(1.0, "exponent of the length in beam scores", letter="G2")
    early_stopping: bool = _option(False, "end beam search at the first full set", letter="G2")
    json_schema: Any = _option(None, "answer must satisfy this JSON schema", letter="D")
    json_object: bool = _option(False, "answer must be a JSON object", letter="D")
    regex: str | None = _option(None, "answer must match this regular expression", letter="D")
    choice: Sequence[str] | None = _option(None, "answer must be one of these", letter="D")
    grammar: str | None = _option(None, "answer must follow this Lark grammar", letter="D")
    adapter: str | None = _option(None, "LoRA adapter by name", letter="H")
    priority: int = _option(0, "smaller runs earlier", letter="D")
    timeout: float | None = _option(None, "seconds after which the request ends", letter="D")

    def __new__(cls, **options: Any) -> SamplingParams:
        """Refuses unknown names before the generated `__init__` would raise a TypeError."""
        known = [f.name for f in fields(cls)]
        for name in options.keys() - known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the options are {', '.join(known)}"
            raise InvalidRequestError(f"SamplingParams has no option {name!r}; {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}; lower it")


def _checked(option: Field[Any], value: Any) -> Any:
    """The value as its plain Python type, or InvalidRequestError."""
    if option.metadata["letter"] is not None:
        if value is not option.default and (option.default is None or value != option.default):
            raise InvalidRequestError(f"{option.name} is not built yet: leave it at its default, {option.default!r}")
        return option.default
    kind = str(option.type)
    if kind.endswith(" | None"):
        if value is None:
            return None
        kind = kind.removesuffix(" | None")
    value = _CONVERT[kind.partition("[")[0] if kind.startswith("Callable") else kind](option.name, value)
    low, high = option.metadata["low"], option.metadata["high"]
    if low is not None and (value < low or (high is not None and value > high)):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequestError(f"{option.name} is {value}; it must be {bounds}")
    return value


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequestError(f"{name} is {value!r}; it must be an integer")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a number")
    try:
        number = float(value)
    except OverflowError:  # an integer past the largest float
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequestError(f"{name} is {number}; it must be a finite number")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} is {value!r}; it must be True or False")
    return value


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise InvalidRequestError(f"{name} is {value!r}; it must be callable")
    return value


def _items(name: str, value: Any, what: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a list of {what}")
    return list(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else _items(name, value, "texts")
    if len(texts) > MAX_STOPS:
        raise InvalidRequestError(f"{name} has {len(texts)} texts; the most is {MAX_STOPS}")
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name} holds {text!r}; it must be a list of texts")
        if not 0 < len(text) <= MAX_STOP_LENGTH:
            raise InvalidRequestError(f"{name} holds a text of {len(text)} characters; each must have 1 to {MAX_STOP_LENGTH}")
    return tuple(texts)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    return tuple(_token_id(name, item) for item in _items(name, value, "token ids"))


def _token_id(name: str, value: Any) -> int:
    token = _integer(f"a token id in {name}", value)
    if token < 0:
        raise InvalidRequestError(f"{name} holds token id {token}; token ids start at 0")
    return token


def _bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name} is {value!r}; it must map token ids to numbers")
    return {_token_id(name, token): _number(f"{name}[{token}]", bias) for token, bias in value.items()}


_CONVERT: dict[str, Callable[[str, Any], Any]] = {
    "int": _integer,
    "float": _number,
    "bool": _flag,
    "Callable": _function,
    "Sequence[str]": _texts,
    "Sequence[int]": _token_ids,
    "Mapping[int, float]": _bias,
}
