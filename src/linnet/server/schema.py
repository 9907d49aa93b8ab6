"""Base of the request bodies: strict types, no unknown fields, and the options of `SamplingParams` as that class defines them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field as DataclassField
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from linnet.engine.params import SamplingParams
from linnet.options import MAX_TEXT_LENGTH, MAX_TEXTS

MAX_BIASES = 1024
MAX_MESSAGES = 4096
"""The most messages of a conversation, or items, as the Responses API calls them."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH)]
Texts = Annotated[list[Text], Field(max_length=MAX_TEXTS)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
SomeTokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(max_length=MAX_BIASES)]
Biases = Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,10}$")], float], Field(max_length=MAX_BIASES)]

_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "bool | str": bool | str,
    "str | Mapping[str, Any]": str | dict[str, Any],
    "Sequence[int]": TokenIds,
    "Mapping[int, float]": Biases,
}


Item = TypeVar("Item")

Items = Annotated[list[Item], Field(fail_fast=True)]
"""A list that may be as long as a body allows: only its first mistake is reported, rather than a million collected."""


def as_list(given: str | list[Any]) -> list[Any]:
    """A text, or token ids, as a list of one; several of either as they are."""
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


CacheControl = dict[str, Any] | None
"""Anthropic's mark on a part of a prompt that should be cached. This server caches the beginnings of all prompts anyway, so that the mark
is accepted anywhere and has no effect."""

User = Annotated[str | None, Field(max_length=256, description="who asks; written to the server's log")]

BodyType = TypeVar("BodyType", bound="Body")


class Body(BaseModel):
    """A request body. Unknown fields, numbers as texts, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    _waited: float = PrivateAttr(default=0.0)
    """Seconds that the request waited for its model to open; they count towards its time limit."""


def sampling_names(without: Iterable[str] = ()) -> list[str]:
    """The options of SamplingParams that a request may have: those that are built and can be written in JSON."""
    return [f.name for f in fields(SamplingParams) if _can_be_sent(f) and f.name not in without]


def with_sampling(without: Iterable[str] = ()) -> Callable[[type[BodyType]], type[BodyType]]:
    """A class decorator: adds a field for every option of SamplingParams (None if not given), except those in `without`."""
    by_name = {f.name: f for f in fields(SamplingParams)}
    definitions: dict[str, Any] = {name: _definition(by_name[name]) for name in sampling_names(without)}

    def enrich(body: type[BodyType]) -> type[BodyType]:
        return create_model(body.__name__, __base__=body, __doc__=body.__doc__, __module__=body.__module__, **definitions)

    return enrich


def given_options(body: Body, names: Iterable[str]) -> dict[str, Any]:
    """The options that a body has, as SamplingParams takes them; null means not given."""
    options = {name: getattr(body, name) for name in names}
    if options.get("logit_bias") is not None:
        options["logit_bias"] = {int(token): bias for token, bias in options["logit_bias"].items()}
    return {name: value for name, value in options.items() if value is not None}


def _can_be_sent(f: DataclassField[Any]) -> bool:
    return f.metadata["letter"] is None and not str(f.type).startswith("Callable") and f.name != "prompt_logprobs"


def _definition(f: DataclassField[Any]) -> tuple[Any, Any]:
    kind, low, high = str(f.type).removesuffix(" | None"), f.metadata["low"], f.metadata["high"]
    type_: Any
    if kind == "Sequence[str]":
        type_ = Text | (Texts if high is None else Annotated[list[Text], Field(max_length=int(high))])
    elif low is None and high is None:
        type_ = _TYPES[kind]
    else:
        type_ = Annotated[_TYPES[kind], Field(ge=low, le=2**63 - 1 if high is None and kind == "int" else high)]
    return type_ | None, Field(default=None, description=f.metadata["help"])
