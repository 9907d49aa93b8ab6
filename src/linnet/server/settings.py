"""Settings from a configuration file, then the environment (LINNET_PORT ...), then flags: each overrides the one before."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from linnet.errors import InvalidRequestError, MissingDependencyError
from linnet.load.hub import locate
from linnet.model_options import ModelOptions
from linnet.server.options import ServerOptions

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

logger = logging.getLogger("linnet.server")

MODEL_OPTIONS = tuple(f.name for f in fields(ModelOptions) if f.metadata["letter"] is None and f.name != "trust_remote_code")
"""The options for opening a model that a server takes: those that are built, without what a file or a variable must not turn on."""

MAX_QUEUE = 256
"""Default for the requests that may wait for a place in a model's batch: a server must not accept more than it can do."""

_KEY_LENGTH = 16
_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Any": str}
_MODEL_NAME = re.compile(r"[\w.:/+-]{1,200}")


@dataclass(frozen=True)
class ModelSettings:
    """A model: its name for clients, where it is, and how to open it."""

    name: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The settings of a server. Requests that name no model get the first one."""

    server: ServerOptions
    models: tuple[ModelSettings, ...]
    api_keys: tuple[str, ...] = ()


def read_settings(models: Sequence[str], flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """models: each `MODEL` or `NAME=MODEL`; they replace those of the file. flags: the options of ServerOptions and ModelOptions that were
    given. Raises InvalidRequestError, which says where the wrong option came from, and MissingDependencyError."""
    values = _merged(flags, config)
    configured = values.pop("models", {})
    shared = {name: values.pop(name) for name in MODEL_OPTIONS if name in values}
    server = ServerOptions(**values)
    entries: Mapping[str, Any] = _named(models) if models else configured
    if not entries:
        raise InvalidRequestError("no model to serve; name one: linnet serve MODEL, or models: in the configuration file")
    return Settings(
        server, tuple(_model(name, entry, shared, server.memory is not None) for name, entry in entries.items()), _api_keys(server)
    )


def _merged(flags: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The options that were given in any of the three places."""
    from pydantic import ValidationError

    try:
        read = _settings_class(config)(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequestError(f"{where}: {first['msg']} (flags, LINNET_ variables and {config or 'no configuration file'})") from None
    return {name: value for name, value in read if name in read.model_fields_set}


def _settings_class(config: Path | None) -> type[BaseSettings]:
    """The options as fields for pydantic-settings; their ranges are checked later, by the options' own classes."""
    try:
        from pydantic import BeforeValidator, create_model
        from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
    except ImportError:
        raise MissingDependencyError('linnet serve needs more packages: pip install "linnet[server]"') from None
    texts = Annotated[list[str], NoDecode, BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)]

    class Sourced(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="LINNET_", extra="forbid", protected_namespaces=())

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from pydantic_settings import InitSettingsSource

            return init_settings, env_settings, InitSettingsSource(settings_cls, _read_yaml(config) if config is not None else {})

    known: dict[str, Any] = {"models": (dict[str, str | dict[str, Any]], {})}
    for f in (*fields(ServerOptions), *(f for f in fields(ModelOptions) if f.name in MODEL_OPTIONS)):
        kind = str(f.type).removesuffix(" | None")
        known[f.name] = ((texts if kind == "Sequence[str]" else _KINDS[kind]) | None, None)
    return create_model("LinnetSettings", __base__=Sourced, **known)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"--config {path}: not a YAML file that can be read ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidRequestError(f"--config {path}: holds a {type(content).__name__}; it must hold options by name, such as port: 8000")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def _named(models: Sequence[str]) -> dict[str, str]:
    entries: dict[str, str] = {}
    for model in models:
        name, equals, path = model.partition("=")
        name, path = (name, path) if equals else (model_name(model), model)
        if name in entries:
            raise InvalidRequestError(f"two models are called {name!r}; tell them apart: linnet serve NAME=MODEL NAME=MODEL")
        entries[name] = path
    return entries


def model_name(model: str) -> str:
    """A model's default name for clients: the last part of a path, so that clients see no path of this machine."""
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or path.is_file() or path.is_dir():
        path = path.resolve()
        return path.stem if path.suffix == ".gguf" else path.name
    return model


def _model(name: str, entry: str | Mapping[str, Any], shared: Mapping[str, Any], budgeted: bool) -> ModelSettings:
    own = {"path": entry} if isinstance(entry, str) else {str(key).replace("-", "_"): value for key, value in entry.items()}
    path = own.pop("path", None)
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidRequestError(f"model name {name!r}: use 1 to 200 letters, digits and . _ - + : /")
    if not isinstance(path, str):
        raise InvalidRequestError(f"models.{name} has no path; give it one, such as path: tiny")
    unknown = [key for key in own if key not in MODEL_OPTIONS]
    if unknown:
        raise InvalidRequestError(f"models.{name}.{unknown[0]}: there is no such option of a model; they are {', '.join(MODEL_OPTIONS)}")
    options = {"max_queue": MAX_QUEUE, **shared, **own}
    try:
        checked = ModelOptions(**options)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"model {name}: {error}") from None
    if budgeted and checked.backend != "linnet":
        raise InvalidRequestError(f"model {name}: --memory is for Linnet's own engine, and its backend is {checked.backend!r}; drop one")
    for place in (path, *([] if checked.draft is None else [checked.draft])):
        locate(place)
    return ModelSettings(name, path, options)


def _api_keys(options: ServerOptions) -> tuple[str, ...]:
    """The keys in the file. Raises InvalidRequestError if there are none and other machines can reach the address."""
    if options.api_keys_file is None:
        if not options.no_auth and not is_loopback(options.host):
            raise InvalidRequestError(
                f"host {options.host} can be reached from other machines: give --api-keys-file FILE, or say --no-auth to let anybody in"
            )
        return ()
    if options.no_auth:
        raise InvalidRequestError("--no-auth and --api-keys-file contradict each other; drop one of them")
    path = Path(options.api_keys_file)
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidRequestError(f"--api-keys-file {path}: cannot be read ({reason})") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InvalidRequestError(f"--api-keys-file {path}: holds no key; write one a line, of {_KEY_LENGTH} characters or more")
    if any(len(key) < _KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise InvalidRequestError(f"--api-keys-file {path}: a key has {_KEY_LENGTH} or more printable ASCII characters and no spaces")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        logger.warning("%s can be read by others on this machine; chmod 600 keeps it to yourself", path)
    return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
