"""What the text of an answer turns out to be, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class TextDelta:
    """Text of the answer that belongs to no call."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call whose name and opening brace have come. index: of the answer's calls, broken ones included, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """A piece of a call's arguments, as the model wrote them: together the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnded:
    """The call is complete, and its arguments are a JSON object."""

    index: int


@dataclass(frozen=True)
class CallBroken:
    """A call that had begun was cut off, or ceased to be JSON: it is none, and all of its text follows as a TextDelta."""

    index: int


Event: TypeAlias = TextDelta | CallBegun | ArgumentsDelta | CallEnded | CallBroken
