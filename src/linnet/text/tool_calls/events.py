"""The events that an answer's text is parsed into: text, and the parts of tool calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class TextDelta:
    """Text of the answer that belongs to no call."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call whose name and opening brace have come. index: its number among the answer's calls, from 0, broken ones included."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """A piece of a call's arguments, as the model wrote them. The pieces together are the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnded:
    """The call is complete, and its arguments are a JSON object."""

    index: int


@dataclass(frozen=True)
class CallBroken:
    """A call that had begun was cut off, or is not valid JSON: it does not count, and all of its text follows as a TextDelta."""

    index: int


Event: TypeAlias = TextDelta | CallBegun | ArgumentsDelta | CallEnded | CallBroken
