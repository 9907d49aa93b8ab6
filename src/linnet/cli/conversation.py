"""A conversation as `linnet chat` keeps it: messages and parameters, saved as JSON and read back with every check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet.cli.options import Group, from_json, read_value, shell_params
from linnet.errors import InvalidRequestError
from linnet.text import chat_template

Message = dict[str, Any]


class Conversation:
    """What has been said, and how to sample. A change that fails changes nothing.

    group: the parameters that a conversation has. given: those that the user set. generation_config: what the model advises.
    """

    def __init__(self, group: Group, given: Mapping[str, Any], generation_config: Mapping[str, Any]) -> None:
        self.messages: list[Message] = []
        self._names = [f.name for f in group.fields]
        self._advice = generation_config
        self._set(dict(given))

    def set_system(self, text: str) -> None:
        """Puts a system message first, in place of one that is there; an empty text removes it."""
        rest = self.messages[1:] if self.messages and self.messages[0]["role"] == "system" else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def reset(self) -> None:
        """Forgets what was said, but for the system message."""
        self.messages = [message for message in self.messages[:1] if message["role"] == "system"]

    def set_params(self, assignments: list[str]) -> None:
        """Takes every name=value, or none of them; name= goes back to the default."""
        given = dict(self.given)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise InvalidRequestError(f"{assignment!r} is not name=value, such as temperature=0.7")
            self._known(name)
            given.pop(name, None)
            if text:
                given[name] = read_value(name, text)
        self._set(given)

    def describe_params(self) -> str:
        """Every parameter and its value, one a line; a star marks those that the user set."""
        return "\n".join(f"{'*' if name in self.given else ' '} {name} = {getattr(self.params, name)!r}" for name in self._names)

    def save(self, path: Path) -> None:
        """Writes {"messages": [...], "params": {...}}; params are those that the user set."""
        text = json.dumps({"messages": self.messages, "params": self.given}, ensure_ascii=False, indent=2)
        try:
            path.write_text(text + "\n", "utf-8")
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidRequestError(f"cannot write {path}: {reason}") from None

    def load(self, path: Path) -> None:
        """Takes over a saved conversation. Raises InvalidRequestError where the file is not one."""
        saved = _read(path)
        messages, params = saved.get("messages"), saved.get("params", {})
        if not isinstance(messages, list) or not isinstance(params, dict):
            raise InvalidRequestError(f'{path} is no saved conversation: it lacks "messages" (a list) or "params" is no object')
        try:
            checked = chat_template.Conversation(messages).messages if messages else []
            for name in params:
                self._known(name)
            self._set({name: from_json(name, value) for name, value in params.items()})
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{path}: {error}") from None
        self.messages = checked

    def _known(self, name: str) -> None:
        if name not in self._names:
            raise InvalidRequestError(f"a chat has no parameter {name!r}; there are {', '.join(self._names)}")

    def _set(self, given: dict[str, Any]) -> None:
        self.params = shell_params(given, self._advice)
        self.given = given


def _read(path: Path) -> dict[str, Any]:
    try:
        there = path.is_file()
        saved = json.loads(path.read_text("utf-8")) if there else None
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{path} is not JSON ({error})") from None
    if not there:
        raise InvalidRequestError(f"{path}: no such file")
    if not isinstance(saved, dict):
        raise InvalidRequestError(f'{path} is no saved conversation: it must be an object with "messages" and "params"')
    return saved
