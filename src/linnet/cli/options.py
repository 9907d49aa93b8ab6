"""Flags out of option fields: a command's flags, their help and their parsing derive from `SamplingParams` and `ModelOptions`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import typer

from linnet.engine.params import ADVISED, SamplingParams, advice
from linnet.errors import InvalidRequestError
from linnet.model_options import ModelOptions
from linnet.ops.torch.devices import VENDORS

_NEEDS_DRAWS = ("top_k", "top_p", "min_p", "seed", "n")
"""Options that mean nothing to greedy decoding: one of them alone asks for draws."""

_FLAG_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "bool | str": str,
    "Any": str,  # the tokenizer: a path, on a command line
    "str | Mapping[str, Any]": str,  # the schema: a file, on a command line
    "Sequence[str]": list[str],
    "Sequence[int]": list[int],
    "Mapping[int, float]": list[str],
}
_METAVARS = {
    "int": "N",
    "float": "X",
    "Sequence[str]": "TEXT",
    "Sequence[int]": "ID",
    "Mapping[int, float]": "ID=VALUE",
    "tokenizer": "PATH",
    "draft": "MODEL",
    "chat_template": "FILE",
    "json_schema": "FILE",
    "grammar": "FILE",
    "regex": "PATTERN",
    "device": "NAME",
    "host": "ADDRESS",
    "api_keys_file": "FILE",
}
"""What stands for a flag's value in its help: by the option's name, or else by its type."""


LISTED = "an integer, a comma list, or a JSON list"
"""What an option with several sizes takes (`linnet.bench.cases.parse_sizes`)."""


class Group(NamedTuple):
    """Flags that a command takes together: the heading they stand under, their fields, and whether the command follows a model's advice
    on them."""

    title: str
    fields: Sequence[Field[Any]]
    advised: bool = True


def sampling_group(without: Iterable[str] = (), advised: bool = True) -> Group:
    """Every option of SamplingParams that a command line can express and that is built."""
    known = [f for f in fields(SamplingParams) if f.metadata["letter"] is None and not _kind(f).startswith("Callable")]
    return Group("Sampling", [f for f in known if f.name not in without], advised)


SINGLE_USER = (
    "weights",
    "context",
    "overflow",
    "threads",
    "prefill_threads",
    "kv_dtype",
    "low_memory",
    "ops",
    "device",
    "dtype",
    "tp",
    "offload",
    "compile",
    "tokenizer",
    "chat_template",
    "draft",
)
BACKEND = ("backend", "trust_remote_code")


def model_group(wanted: Iterable[str] = (*SINGLE_USER, *BACKEND)) -> Group:
    """The options of opening a model that are `wanted`; by default those that concern a single user."""
    by_name = {f.name: f for f in fields(ModelOptions)}
    return Group("Model", [by_name[name] for name in wanted])


def with_options(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for every field of its groups; it gets those that were given, one dict a group."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        makers = _maker_flags() if any(f.name == "device" for group in groups.values() for f in group.fields) else []
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in groups]
        flags = [*(_flag(f, group) for group in groups.values() for f in group.fields), *makers]

        @wraps(command)
        def wrapper(**values: Any) -> None:
            maker = _device_of_maker([values.pop(flag.name) and flag.name for flag in makers], values.get("device"))
            for name, group in groups.items():
                given = {f.name: values.pop(f.name) for f in group.fields}
                if maker is not None and "device" in given:
                    given["device"] = maker
                values[name] = {key: _parsed(key, value) for key, value in given.items() if value not in (None, [], ())}
            command(**values)

        return _signed(wrapper, [*own, *flags])

    return decorate


def gathered(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command a flag for every field of its parameters that are dataclasses, each declared as Typer wants a parameter; it gets
    them as these dataclasses."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    made: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
    parameters: list[inspect.Parameter] = []
    for parameter in own:
        parameters += _fields_as_parameters(made[parameter.name]) if parameter.name in made else [parameter]

    @wraps(command)
    def wrapper(**values: Any) -> None:
        for name, kind in made.items():
            values[name] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
        command(**values)

    return _signed(wrapper, parameters)


def _fields_as_parameters(kind: Any) -> list[inspect.Parameter]:
    types = get_type_hints(kind, include_extras=True)
    return [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]) for f in fields(kind)]


def _signed(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The command with these parameters, for Typer to see."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _maker_flags() -> list[inspect.Parameter]:
    """--nvidia and its like: other words for --device, which its help names."""
    hidden = {maker: typer.Option(False, f"--{maker}", hidden=True) for maker in VENDORS}
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=flag, annotation=bool) for name, flag in hidden.items()]


def _device_of_maker(makers: Sequence[str | bool], device: str | None) -> str | None:
    """The device of the one maker whose flag was given. Raises InvalidRequestError for several, and beside --device."""
    given = [f"--{maker}" for maker in makers if maker] + ([] if device is None else ["--device"])
    if len(given) > 1:
        raise InvalidRequestError(f"{' and '.join(given)} each say where to compute; give one of them")
    return VENDORS[given[0][2:]] if given and device is None else None


def shell_params(given: Mapping[str, Any], generation_config: Mapping[str, Any]) -> SamplingParams:
    """What a command samples with: what was given; then what the model's publishers advise; then greedy.

    As in transformers, advice to draw counts only under "do_sample": true. An option that only draws can obey, without a
    temperature, means a temperature of 1. Raises InvalidRequestError for bad options and for bad advice.
    """
    followed = ADVISED if generation_config.get("do_sample") is True else ("repetition_penalty",)
    advised = {name: value for name, value in advice(generation_config).items() if name in followed and name not in given}
    for name, value in advised.items():
        try:
            SamplingParams(**{name: value})
        except InvalidRequestError as error:
            flag = f"--{name.replace('_', '-')}"
            raise InvalidRequestError(f"the model's generation_config.json is at fault: {error}; overrule it with {flag}") from None
    needs = [name for name in _NEEDS_DRAWS if name in given and (name != "n" or "num_beams" not in given)]
    draws = generation_config.get("do_sample") is True or bool(needs)
    return SamplingParams(**{"temperature": 1.0 if draws else 0.0, **advised, **given})


def read_value(name: str, text: str) -> Any:
    """The value in `name=text`: JSON where it is JSON, else the text itself. Range and type are for SamplingParams to check."""
    kind = _kind(next(f for f in fields(SamplingParams) if f.name == name))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if kind == "Sequence[str]" and not isinstance(value, list):
        return [text]
    return from_json(name, value)


def from_json(name: str, value: Any) -> Any:
    """A parameter as JSON holds it: token ids that are keys are texts there."""
    if name == "logit_bias" and isinstance(value, dict):
        return {int(key) if key.isdecimal() else key: bias for key, bias in value.items()}
    return value


def _kind(f: Field[Any]) -> str:
    return str(f.type).removesuffix(" | None")


def _flag(f: Field[Any], group: Group) -> inspect.Parameter:
    """The flag of one field. Its default is None, "not given", so that only what a user says overrules a model."""
    kind, choices = _kind(f), f.metadata["choices"]
    option = typer.Option(
        None,
        f"--{f.name.replace('_', '-')}",
        help=_help(f, kind, group.advised),
        metavar="|".join(str(choice).lower() for choice in choices) if choices else _METAVARS.get(f.name, _METAVARS.get(kind)),
        show_default=False,
        rich_help_panel=group.title,
    )
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_FLAG_TYPES[kind] | None)


def _help(f: Field[Any], kind: str, advised: bool) -> str:
    text = str(f.metadata["help"]).replace("None:", "left out:")
    remarks = []
    if f.name == "temperature":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in _NEEDS_DRAWS)
        remarks.append(f"default: {'what the model advises, else ' if advised else ''}0, or 1 beside any of {flags}")
    elif f.name in ADVISED and advised:
        remarks.append(f"default: what the model advises, else {f.default:g}")
    elif isinstance(f.default, (int, float, str)) and f.default not in (False, "auto"):
        remarks.append(f"default: {f.default:g}" if isinstance(f.default, float) else f"default: {f.default}")
    if kind.startswith(("Sequence", "Mapping")):
        remarks.append("may be repeated")
    if f.name == "device":
        remarks.append(f"also {', '.join(f'--{maker}' for maker in VENDORS)}")
    if f.metadata["letter"] is not None:
        remarks.append("nothing else is built yet")
    return f"{text} ({'; '.join(remarks)})" if remarks else text


def _parsed(name: str, value: Any) -> Any:
    """A flag's value as its option takes it."""
    if name in ("json_schema", "grammar"):
        return _read(name, Path(value))
    if name == "early_stopping":
        return {"true": True, "false": False}.get(value, value)
    if name != "logit_bias":
        return value
    biases: dict[int, float] = {}
    for text in value:
        token, _, bias = text.partition("=")
        try:
            token_id, number = int(token), float(bias)
        except ValueError:
            raise InvalidRequestError(f"--logit-bias {text!r} is not ID=VALUE, such as 42=-1.5") from None
        if token_id in biases:
            raise InvalidRequestError(f"--logit-bias names token id {token_id} twice; name it once")
        biases[token_id] = number
    return biases


def _read(name: str, path: Path) -> str:
    """The text of the file that a flag names."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequestError(f"--{name.replace('_', '-')} {path}: cannot be read ({reason})") from None
