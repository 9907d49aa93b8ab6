"""`SamplingParams`: every per-request option, once. Flags, schemas and documentation derive from its fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import InvalidRequestError

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_SAMPLES = 256


def _option(default: Any, help: str, low: float | None = None, high: float | None = None, letter: str | None = None) -> Any:
    """A field with its documentation and closed range; `letter` marks an option that is not built yet."""
    metadata = {"help": help, "low": low, "high": high, "letter": letter}
    if isinstance(default, (dict, list)):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SamplingParams:
    """How to choose and when to stop, per request. Unknown or out-of-range options raise InvalidRequestError.

    Logits pass, in this order, through: logit_bias, repetition, presence and frequency penalties,
    logits_processor, then temperature, top_k, top_p, min_p, and the draw. See each field's help text.
    """

    max_tokens: int | None = _option(None, "most tokens to generate; None: until the context is full; 0: score the prompt", 0)
    temperature: float = _option(1.0, "0 is greedy; larger is more random", 0.0, 100.0)
    top_k: int = _option(0, "sample among the k likeliest tokens; 0: all", 0)
    top_p: float = _option(1.0, "sample among the likeliest tokens whose probabilities reach this sum", 0.0, 1.0)
    min_p: float = _option(0.0, "drop tokens below this share of the likeliest one's probability", 0.0, 1.0)
    repetition_penalty: float = _option(1.0, "divide positive and multiply negative logits of seen tokens (prompt included); 1: off", 1e-3, 100.0)
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

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            _check_built(f.name, value, f.default, f.metadata["letter"])
            _check_range(f.name, value, f.default, f.metadata["low"], f.metadata["high"])
        _normalise_stops(self)
        _check_bias(self)
