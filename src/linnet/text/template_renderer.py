"""Renders chat templates in a process of their own, which the system ends when one takes too much time or memory.

Jinja2's sandbox keeps a template from reaching for what it should not; it does not keep it from never ending, and what
a template builds in one call into C (`[x, x]` nested forty deep, printed) no check inside the interpreter can stop.
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
    """What `template` makes of `variables`, which hold only built-in types of JSON. Safe to call from any thread.

    where: the template's name in messages. Raises ChatTemplateError where it refuses the variables or fails on them, and
    HostileTemplateError where it is malformed, breaks out of the sandbox, or takes more than the limits above.
    """
    return _ask(template, dict(variables), where)


def check(template: str, where: str) -> None:
    """Raises HostileTemplateError where the template does not compile."""
    _ask(template, None, where)


def _ask(template: str, variables: dict[str, Any] | None, where: str) -> str:
    reply = _renderer.ask((template, variables, LONGEST_TEXT))
    if reply is None:
        reply = b"!", f"takes more than {PROCESSOR_SECONDS} s of processor time, or more memory than templates may; it was ended"
    status, text = reply
    if status == b"+":
        return text
    raise (ChatTemplateError if status == b"-" else HostileTemplateError)(f"{where} {text[:_LONGEST_REASON]}")
