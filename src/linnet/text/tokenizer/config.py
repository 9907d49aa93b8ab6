"""Reads the files beside a tokenizer file in a model folder: tokenizer_config.json, special_tokens_map.json, chat templates.

Names and precedence follow transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.errors import ModelFileError
from linnet.load.files import read_bytes, read_json

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_TEMPLATE_BYTES = 4 * 2**20
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class ListedToken:
    """A token as tokenizer_config.json lists it, with its flags."""

    id: int
    content: str
    flags: Mapping[str, bool]


@dataclass(frozen=True)
class TokenizerConfig:
    """named: the texts of bos_token and the like. special: texts that the files call special. settings: everything else."""

    path: Path
    named: Mapping[str, str]
    special: frozenset[str]
    added: tuple[ListedToken, ...]
    settings: Mapping[str, Any]
    chat_templates: Mapping[str, str]

    def flag(self, name: str) -> bool | None:
        """A setting that is true or false, or None if the file does not have it."""
        value = self.settings.get(name)
        return value if isinstance(value, bool) else None


def read_config(folder: Path, named: Mapping[str, str] | None = None) -> TokenizerConfig:
    """named: the tokens that the tokenizer's class has by default. Raises ModelFileError for malformed files, which says where the mistake
    is."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    beside = folder / "special_tokens_map.json"
    older = read_json(beside) if beside.is_file() else {}
    said = {name: content for name in _NAMED for content in _contents(settings.get(name) or older.get(name))}
    named = {**(named or {}), **said}
    added = tuple(_listed_tokens(path, settings.get("added_tokens_decoder") or {}))
    if not added and (folder / "added_tokens.json").is_file():
        added = tuple(_older_tokens(folder / "added_tokens.json"))
    special = {*named.values(), *(token.content for token in added if token.flags.get("special"))}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        special.update(_contents(settings.get(key)))
        special.update(_contents(older.get(key)))
    return TokenizerConfig(path, named, frozenset(special), added, settings, _folder_templates(folder, settings))


def _listed_tokens(path: Path, listed: Any) -> Iterator[ListedToken]:
    where = f"{path}: added_tokens_decoder"
    if not isinstance(listed, dict):
        raise ModelFileError(f"{where} must be an object of id: token, not a {type(listed).__name__}")
    for id, entry in listed.items():
        if not (id.isdecimal() and id.isascii()) or len(id) > 8:
            raise ModelFileError(f"{where} has the id {id[:40]!r}; ids are numbers from 0 on")
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ModelFileError(f"{where}: the entry of id {id} must be an object with a text under 'content'")
        flags = {name: entry[name] for name in _FLAGS if name in entry}
        if wrong := [name for name, value in flags.items() if not isinstance(value, bool)]:
            raise ModelFileError(f"{where}: {wrong[0]} of id {id} must be true or false, not {flags[wrong[0]]!r}")
        yield ListedToken(int(id), entry["content"], flags)


def _older_tokens(path: Path) -> Iterator[ListedToken]:
    for content, id in read_json(path).items():
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise ModelFileError(f"{path}: {content!r} has the id {id!r}; ids are numbers from 0 on")
        yield ListedToken(id, content, {})


def _contents(value: Any) -> Iterator[str]:
    """The tokens that an entry names: a text, an object with "content", or several of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _contents(value["content"]) if "content" in value else _contents(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _contents(item)


def templates_of(found: Any, where: str) -> dict[str, str]:
    """Templates by name from the value of "chat_template": a text (the "default" one), a list of {name, template}, or an object."""
    if found is None:
        return {}
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list):
        if not all(isinstance(entry, dict) and "name" in entry and "template" in entry for entry in found):
            raise ModelFileError(f"{where}: chat_template is a list whose entries are not all objects with 'name' and 'template'")
        found = {entry["name"]: entry["template"] for entry in found if isinstance(entry["name"], str)}
    if not isinstance(found, dict) or not all(isinstance(template, str) for template in found.values()):
        raise ModelFileError(f"{where}: chat_template must be a text, a list of {{name, template}}, or an object of texts")
    return found


def _folder_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The templates by name. A template file overrides the config, as the newer way to store templates."""
    templates = templates_of(settings.get("chat_template"), str(folder / "tokenizer_config.json"))
    if (folder / "chat_template.json").is_file():
        templates |= read_templates(folder / "chat_template.json")
    for path in (folder / "additional_chat_templates").glob("*.jinja"):
        templates[path.stem] = _read_text(path)
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read_text(folder / "chat_template.jinja")
    return templates


def read_templates(path: Path) -> dict[str, str]:
    """The templates in a file: a .json with "chat_template" (one or several), else the source of one."""
    if path.suffix != ".json":
        return {"default": _read_text(path)}
    content = read_json(path)
    if "chat_template" not in content:
        raise ModelFileError(f"{path}: has no chat_template")
    return templates_of(content["chat_template"], str(path))


def _read_text(path: Path) -> str:
    try:
        text = read_bytes(path, MAX_TEMPLATE_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
