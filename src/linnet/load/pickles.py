"""Pickles read as data: plain values are built, everything else stays a name. Nothing that a pickle names is imported or called.

Python's own `pickletools` cuts the file into opcodes and their arguments, all within its bytes; the few that stand for numbers,
texts, lists, dicts and tuples are carried out here. What a pickle would call is kept as an `Object`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import IO, Any

from linnet.errors import ModelFileError

MAX_OPCODES = 2**23
"""Most opcodes of one pickle: a vocabulary of a million tokens takes three million, and each value tens of bytes of memory."""


@dataclass(frozen=True)
class Global:
    """A class or function by its name, `module.name`."""

    name: str


@dataclass
class Object:
    """What a pickle would have made by calling a class or function: its name, the arguments, and what was put in afterwards."""

    name: str
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class PickleError(ValueError):
    """Bytes that are no pickle of plain values."""


def read_pickle(stream: IO[bytes], where: str, admitted: Collection[str], what: str, outside: list[Any] | None = None) -> Any:
    """The value of the pickle at the stream's position, which then stands behind it.

    admitted: the globals ("module.name") that it may name; `what` calls them in messages. outside: gets the persistent ids, which
    stand for what lies outside the pickle. Raises ModelFileError for another, by its
    name, and for bytes that are no pickle, are cut short, or hold other things than plain values.
    """
    try:
        return _Machine(admitted, [] if outside is None else outside).run(stream)
    except _RefusedGlobalError as refused:
        raise ModelFileError(
            f"{where}: its pickle names {str(refused)[:200]!r}, but only {what} are read (numbers, texts, lists, dicts); nothing of it "
            "was run. Save it again without"
        ) from None
    except PickleError as error:
        raise ModelFileError(f"{where}: not a pickle of plain values ({str(error)[:200]}); download it again") from None


class _RefusedGlobalError(Exception):
    pass


_MARK: Any = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE
    BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8""".split()
)
"""Opcodes whose argument is the value."""
_KEYS = (str, bytes, int, float, type(None))
"""Types of a dict's keys: hashing what nests would let a file overflow the stack."""


class _Machine:
    """The pickle machine (see the notes in Python's pickletools.py) with those opcodes that plain values and objects need."""

    def __init__(self, admitted: Collection[str], outside: list[Any]) -> None:
        self.admitted, self.outside = admitted, outside
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.opcodes: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "MARK": lambda _: self.stack.append(_MARK),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "LIST": lambda _: self.stack.append(self.marked()),
            "TUPLE": lambda _: self.stack.append(tuple(self.marked())),
            "TUPLE1": lambda _: self.stack.append(tuple(self.last(1))),
            "TUPLE2": lambda _: self.stack.append(tuple(self.last(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self.last(3))),
            "DICT": self.dictionary,
            "APPEND": lambda _: self.extend(self.last(1)),
            "APPENDS": lambda _: self.extend(self.marked()),
            "SETITEM": lambda _: self.update(self.last(2)),
            "SETITEMS": lambda _: self.update(self.marked()),
            "MEMOIZE": lambda _: self.put(len(self.memo)),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self.put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self.get),
            "GLOBAL": lambda name: self.name(name.replace(" ", ".", 1)),
            "STACK_GLOBAL": lambda _: self.name(".".join(map(str, self.last(2)))),
            "REDUCE": self.call,
            "NEWOBJ": self.call,
            "BUILD": self.build,
            "BINPERSID": self.persistent,
        }

    def run(self, stream: IO[bytes]) -> Any:
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count == MAX_OPCODES:
                    raise PickleError(f"more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    return self.last(1)[0]
                self.step(opcode.name, argument)
        except (ValueError, IndexError, OverflowError) as error:  # of genops, for bytes that are no opcode or cut short
            raise error if isinstance(error, PickleError) else PickleError(str(error)) from None
        raise PickleError("it does not end")

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _ARGUMENTS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in self.opcodes:
            self.opcodes[opcode](argument)
        else:
            raise PickleError(f"the opcode {opcode} is of none")

    def last(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) < count or any(value is _MARK for value in taken):
            raise PickleError("values are missing")
        del self.stack[-count:]
        return taken

    def marked(self) -> list[Any]:
        """What lies above the topmost mark, which goes too."""
        for depth in range(len(self.stack) - 1, -1, -1):
            if self.stack[depth] is _MARK:
                taken = self.stack[depth + 1 :]
                del self.stack[depth:]
                return taken
        raise PickleError("a mark is missing")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("values are missing")
        return self.stack[-1]

    def dictionary(self, _: Any) -> None:
        pairs = self.marked()
        self.stack.append({})
        self.update(pairs)

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.top(), list):
            raise PickleError("something is appended to what is no list")
        self.stack[-1].extend(values)

    def update(self, pairs: list[Any]) -> None:
        target = self.top().items if isinstance(self.top(), Object) else self.top()
        keys = pairs[::2]
        if not isinstance(target, dict) or len(pairs) % 2 or not all(isinstance(key, _KEYS) for key in keys):
            raise PickleError("an entry is put into what is no dict, or under what is no plain key")
        target.update(zip(keys, pairs[1::2], strict=True))

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"memo {index} is not there")
        self.stack.append(self.memo[index])

    def name(self, name: str) -> None:
        if name not in self.admitted:
            raise _RefusedGlobalError(name)
        self.stack.append(Global(name))

    def persistent(self, _: Any) -> None:
        (id,) = self.last(1)
        self.outside.append(id)
        self.stack.append(Object("persistent id", id))

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Global):
            raise PickleError("something is called that is no class or function")
        self.stack.append(Object(function.name, arguments))

    def build(self, _: Any) -> None:
        (state,) = self.last(1)
        if not isinstance(self.top(), Object):
            raise PickleError("a state is given to what is no object")
        self.stack[-1].state = state
