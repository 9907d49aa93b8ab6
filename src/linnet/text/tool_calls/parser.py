"""`ToolCallParser`: the text of one answer in, as it comes; text and tool calls out, as soon as they are certain."""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass, field

from linnet.text.detokenize import StopFinder
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallBroken, CallEnded, Event, TextDelta
from linnet.text.tool_calls.formats import Format
from linnet.text.tool_calls.json_reader import MalformedError, Reading
from linnet.text.tool_calls.tools import NAME

_SPACE = " \t\n\r"
_ID_SIGNS = string.ascii_letters + string.digits


class ToolCallParser:
    """Separates text from calls. The events do not depend on how the text is cut into pieces, except where deltas are cut.

    Text that may be the start of an opening is held back, and so is white space, since it is dropped next to calls. Nothing else is
    lost: text that begins like a call and is none is given out as text. An opening counts anywhere; a bare call counts only at the
    beginning of the answer, and only if its name is one of `names`.
    """

    def __init__(self, format: Format, names: Collection[str]) -> None:
        self._format, self._names = format, names
        self._events: list[Event] = []
        self._held = ""  # text that will be given out unless a call follows
        self._openings = StopFinder([format.opening])
        self._at_start = format.bare  # nothing but white space has come yet
        self._after_call = False  # nothing but white space has come since a call
        self._reading: Reading[str] | None = None
        self._raw: list[str] = []  # the text so far of the call being read, its opening included
        self._call = _Call()
        self._index = 0

    def push(self, text: str) -> list[Event]:
        """The events that this text has made certain."""
        while text:
            text = self._read_text(text) if self._reading is None else self._read_call(text)
        self._give_arguments()
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """The rest, at the end of the answer."""
        rest = "" if self._reading is None else self._read_call("")
        self._give_text(self._held + rest)
        self._held = ""
        events, self._events = self._events, []
        return events

    # ---- text
    def _read_text(self, text: str) -> str:
        """Takes text up to the opening of a call; returns the text after it."""
        if self._after_call and not (text := text.lstrip(_SPACE)):
            return ""
        self._after_call = False
        if self._at_start:
            rest = text.lstrip(_SPACE)
            self._held += text[: len(text) - len(rest)]
            if not rest:
                return ""
            self._at_start = False
            if rest[0] == "{":
                self._open("{", bare=True)
                return rest[1:]
            text = rest
        match = self._openings.feed(text)
        known = self._held + (text if match is None else text[: match[0]])
        certain = known[: len(known) - (self._openings.pending if match is None else len(self._format.opening))].rstrip(_SPACE)
        self._give_text(certain)
        self._held = known[len(certain) :]
        if match is None:
            return ""
        self._open("", bare=False)
        return text[match[0] :]

    def _open(self, first: str, bare: bool) -> None:
        """Reads a call from here on; what is held goes with it."""
        self._raw, self._held = [self._held + first], ""
        self._call = _Call(bare)
        self._at_start = False
        self._reading = self._format.read(self)
        next(self._reading)
        if first:
            self._reading.send(first)

    # ---- calls
    def _read_call(self, text: str) -> str:
        """Sends characters to the reader, or "", the end of the text; what is not the calls' any more."""
        reading = self._reading
        assert reading is not None
        for i, c in enumerate(text or ("",)):
            self._raw.append(c)
            if self._call.reading_arguments:
                self._call.arguments.append(c)
            try:
                reading.send(c)
            except StopIteration as end:
                self._close()
                self._after_call = True
                return str(end.value) + text[i + 1 :]
            except MalformedError:
                if self._call.reading_arguments:
                    self._call.arguments.pop()
                self._raw.pop()
                self._break()
                return text[i:]
        return ""

    def _close(self) -> None:
        self._reading = None
        self._openings = StopFinder([self._format.opening])

    def _break(self) -> None:
        self._close()
        self._give_arguments()
        if self._call.begun:
            self._events.append(CallBroken(self._index))
            self._index += 1
        raw = "".join(self._raw)
        certain = raw.rstrip(_SPACE)
        self._give_text(certain)
        self._held = raw[len(certain) :]

    # ---- what readers tell (a Sink)
    def name(self, name: str) -> None:
        if not NAME.fullmatch(name) or (self._call.bare and name not in self._names):
            raise MalformedError
        self._call.name = name

    def arguments_begin(self) -> None:
        self._call.arguments = ["{"]
        self._call.reading_arguments = True

    def arguments_end(self) -> None:
        self._call.reading_arguments = False

    def arguments(self, text: str) -> None:
        self._call.arguments.append(text)

    def end(self) -> None:
        if self._call.name is None:
            raise MalformedError
        if not self._call.arguments and not self._call.begun:
            self._call.arguments = ["{}"]
        self._give_arguments()
        self._events.append(CallEnded(self._index))
        self._index += 1
        self._raw, self._call = [], _Call(self._call.bare)

    # ---- events
    def _give_text(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))

    def _give_arguments(self) -> None:
        """Gives out the arguments that have come, once the name is known."""
        call = self._call
        if call.name is None or not call.arguments:
            return
        if not call.begun:
            self._events.append(CallBegun(self._index, new_id(), call.name))
            call.begun = True
        self._events.append(ArgumentsDelta(self._index, "".join(call.arguments)))
        call.arguments = []


@dataclass
class _Call:
    """A call while it is read. arguments: characters that were not given out."""

    bare: bool = False
    name: str | None = None
    arguments: list[str] = field(default_factory=list)
    reading_arguments: bool = False
    begun: bool = False


def new_id() -> str:
    """Nine random letters and digits, which every template accepts (Mistral's wants exactly that); 10^16 possibilities."""
    return "".join(secrets.choice(_ID_SIGNS) for _ in range(9))
