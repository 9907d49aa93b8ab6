"""Renders chat templates in a process of their own, which the system ends when one takes too much time or memory.

Jinja2's sandbox keeps a template away from forbidden attributes, but does not make it end. A template can also build a huge text in one
call into C (`[x, x]` nested forty deep, printed), which no check inside the interpreter can stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import ChatTemplateError, HostileTemplateError
from linnet.text.confined import Confined

MEMORY = 512 * 2**20
"""Bytes that rendering may take."""
PROCESSOR_SECONDS = 0.8
"""Processor time that one rendering may take, however busy the machine is."""
LONGEST_TEXT = 32 * 2**20
"""Characters that a template may write."""
_LONGEST_REASON = 2000

_renderer = Confined("template_process", MEMORY, PROCESSOR_SECONDS)


def render(template: str, variables: Mapping[str, Any], where: str) -> str:
    """The text that `template` renders from `variables`, which hold only JSON's types. Safe to call from any thread.

    where: the template's name in messages. Raises ChatTemplateError if it refuses the variables or fails on them, and
    HostileTemplateError if it is malformed, tries to leave the sandbox, or exceeds the limits above.
    """
    return _ask(template, dict(variables), where)


def check(template: str, where: str) -> None:
    """Raises HostileTemplateError if the template does not compile."""
    _ask(template, None, where)


def _ask(template: str, variables: dict[str, Any] | None, where: str) -> str:
    reply = _renderer.ask((template, variables, LONGEST_TEXT))
    if reply is None:
        reply = b"!", f"takes more than {PROCESSOR_SECONDS} s of processor time, or more memory than templates may; it was ended"
    status, text = reply
    if status == b"+":
        return text
    raise (ChatTemplateError if status == b"-" else HostileTemplateError)(f"{where} {text[:_LONGEST_REASON]}")
