"""`Session`: the model step by step, over KV pages that its caller owns, beside the requests of the same engine."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linnet.engine.pages import GONE, Pages, first_page, most_pages, pages_for, pages_to_write
from linnet.engine.prefix_cache import PrefixCache
from linnet.errors import ClosedError, ContextLengthError, InvalidRequestError
from linnet.ops.base import PAGE_SIZE, Batch

if TYPE_CHECKING:
    from linnet.engine.engine import Engine


class Session:
    """One sequence, or several of one length side by side, whose keys and values stay in the cache until they are rolled back.

    capacity: most tokens of a sequence, for which memory is set aside at once; None: the context. Length-dependent rotary scaling is
    that of a sequence of so many tokens. Layers with a window keep what they see and little more: after rolling back farther, what is left
    is computed again. What the first `forward` of an empty session gets is its prompt, where a model treats prompts unlike answers. Logits
    are those of `LLM.logits` bit for bit, however the tokens come. Of several threads, one at a time may use a
    session; requests run beside it. What it held is given back by `close()`, at the end of a `with`, or when nobody has it any longer.

    Raises ContextLengthError for a capacity beyond the context, and OutOfMemoryError where requests would be left without room.
    """

    def __init__(self, engine: Engine, capacity: int | None = None) -> None:
        self._engine = engine
        self._pages = _Pages(engine)
        weakref.finalize(self, engine.leave, self._pages.release).atexit = False
        self._closed = False
        self._tokens: list[list[int]] = [[]]
        self._computed = 0  # tokens of each that have their keys and values
        self._prompt = 0  # tokens of the first forward
        self.reset(None, capacity)

    @property
    def length(self) -> int:
        """How many tokens each sequence holds."""
        return len(self._tokens[0])

    @property
    def token_ids(self) -> list[int] | list[list[int]]:
        """The tokens so far, as `forward` took them."""
        return list(self._tokens[0]) if self.batch is None else [list(tokens) for tokens in self._tokens]

    def reset(self, batch: int | None = None, capacity: int | None = None) -> None:
        """Begins anew, empty: one sequence, or `batch` of them, each of up to `capacity` tokens. Where there is no room for these, it is
        empty and as large as before."""
        self._refuse_closed()
        capacity = self._engine.context if capacity is None else capacity
        for name, value in (("batch", 1 if batch is None else batch), ("capacity", capacity)):
            if type(value) is not int or value < 1:
                raise InvalidRequestError(f"{name} is {value!r}; it must be an integer from 1 up")
        if capacity > self._engine.context:
            raise ContextLengthError(f"capacity is {capacity} and the context holds {self._engine.context}; lower it")
        self._cut(0, 0)
        self._engine.in_turn(lambda: self._pages.reset(batch or 1, capacity, self._rows(batch or 1)))
        self.batch, self.capacity = batch, capacity
        self._tokens = [[] for _ in range(batch or 1)]

    def forward(self, token_ids: Sequence[int] | Sequence[Sequence[int]] | NDArray[Any], last: int | None = None) -> NDArray[np.float32]:
        """Appends tokens, and gives the logits after each of them, or after the `last` so many: float32 [n, vocab], or of a session with
        a batch, whose token_ids are [batch, n], float32 [batch, n, vocab].

        Raises InvalidRequestError for what are no such tokens and ContextLengthError past the capacity; then nothing is appended.
        """
        self._refuse_closed()
        new = self._checked(token_ids)
        count = new.shape[1]
        wanted = count if last is None else last
        if type(wanted) is not int or not 0 <= wanted <= count:
            raise InvalidRequestError(f"last is {last!r}; it must be an integer from 0 to the {count} tokens that were given")
        logits = np.empty((len(new), wanted, self._engine.spec.vocab_size), np.float32)
        before, prompt = self.length, self._prompt
        try:
            self._prompt = prompt or count
            for held, more in zip(self._tokens, new.tolist(), strict=True):
                held += more
            while self._computed < self.length:
                found = self._engine.in_turn(partial(self._step, wanted))
                end = wanted - (self.length - self._computed)
                logits[:, end - found.shape[1] : end] = found
        except BaseException:
            self._cut(before, prompt, broken=True)
            raise
        return logits[0] if self.batch is None else logits

    def rollback(self, count: int) -> None:
        """Drops the last `count` tokens of each sequence."""
        if type(count) is not int or not 0 <= count <= self.length:
            raise InvalidRequestError(f"rollback of {count!r} tokens; it must be an integer from 0 to the {self.length} that there are")
        left = self.length - count
        if 0 < left < self._prompt and not PrefixCache.suits(self._engine.spec):
            raise InvalidRequestError(
                f"rollback to {left} tokens of a prompt of {self._prompt}; this model's keys and values depend on all of it: reset instead"
            )
        self._cut(left, self._prompt if left else 0)

    def fork(self) -> Session:
        """A session of its own with the same tokens and capacity; both share pages until one of them writes there."""
        self._refuse_closed()
        twin = Session.__new__(Session)
        twin._engine, twin._pages = self._engine, _Pages(self._engine)
        weakref.finalize(twin, self._engine.leave, twin._pages.release).atexit = False
        self._engine.in_turn(lambda: twin._pages.copy(self._pages))
        twin.batch, twin.capacity, twin._prompt, twin._closed = self.batch, self.capacity, self._prompt, False
        twin._computed = self._computed
        twin._tokens = [list(tokens) for tokens in self._tokens]
        return twin

    def close(self) -> None:
        """Gives the pages back; every later use raises ClosedError. Closing twice is no error."""
        self._closed = True
        self._engine.leave(self._pages.release)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError("the session is closed; ask the LLM for a new one")

    def _checked(self, token_ids: Any) -> NDArray[np.int64]:
        """[sequences, n], n >= 1."""
        shape = "[n]" if self.batch is None else f"[{self.batch}, n]"
        try:
            new = np.asarray(token_ids)
        except ValueError:  # lists of several lengths
            new = np.empty(0)
        new = new[None] if self.batch is None else new
        if new.ndim != 2 or len(new) != len(self._tokens) or not new.size or new.dtype.kind not in "iu":
            raise InvalidRequestError(f"token_ids must be integers {shape}, at least one for each sequence")
        vocab = self._engine.spec.vocab_size
        if not 0 <= new.min() <= new.max() < vocab:
            outside = next(int(token) for token in new.flat if not 0 <= token < vocab)
            raise InvalidRequestError(f"token id {outside} is outside the model's {vocab} embedding rows")
        if self.length + new.shape[1] > self.capacity:
            raise ContextLengthError(
                f"the session holds {self.length} tokens and was given {new.shape[1]}, and its capacity is {self.capacity}; "
                "roll some back, or reset it to a larger one"
            )
        return new.astype(np.int64)

    def _rows(self, sequences: int) -> int:
        """How many tokens of each sequence go into a step, so that requests beside it go on."""
        return max(1, self._engine.most_rows // sequences)

    def _step(self, wanted: int) -> NDArray[np.float32]:
        """Runs the next tokens of each sequence: the logits [sequences, rows, vocab] after those that are among the last `wanted`."""
        sequences, length = len(self._tokens), self.length
        if self._pages.lack(self._computed):
            self._pages.empty()
            self._computed = 0
        start = self._computed
        whole = self._engine.spec.bidirectional_prompt and not start  # such a prompt is never cut
        end = self._prompt if whole else min(length, start + self._rows(sequences))
        count, rows = end - start, min(end - start, max(0, end - (length - wanted)))
        table = self._pages.table(start, end)
        batch = Batch(
            tokens=_int32([token for tokens in self._tokens for token in tokens[start:end]]),
            positions=_int32([*range(start, end)] * sequences),
            previous=_int32(
                [token for tokens in self._tokens for token in (tokens[start - 1 : end - 1] if start else [-1, *tokens[: end - 1]])]
            ),
            sequence=_int32([index for index in range(sequences) for _ in range(count)]),
            page_table=table,
            rope_lengths=_int32([self.capacity] * sequences),
            prompt_lengths=_int32([self._prompt] * sequences),
            rows=_int32([index * count + row for index in range(sequences) for row in range(count - rows, count)]),
        )
        logits = self._engine.run(batch).reshape(sequences, rows, self._engine.spec.vocab_size)
        self._computed = end
        return logits

    def _cut(self, length: int, prompt: int, broken: bool = False) -> None:
        """broken: whether a step may have been left half-way."""
        for tokens in self._tokens:
            del tokens[length:]
        if self._engine.pool.has_states and (broken or self._computed > length):  # a page that is full still has its state
            self._computed = min(self._computed, length) // PAGE_SIZE * PAGE_SIZE
        self._computed = min(self._computed, length)
        self._prompt = prompt


class _Pages:
    """The pages of a session's sequences, and the promise of those that it has yet to write to. Only whoever has the turn comes here."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._groups = engine, engine.pool.groups
        self._held: list[Pages] = []  # of each sequence
        self._most = [0] * len(self._groups)  # that a sequence may hold of each group
        self._promised = [0] * len(self._groups)

    def reset(self, sequences: int, capacity: int, rows: int) -> None:
        """For sequences of up to `capacity` tokens, at most `rows` of each in a step."""
        self.empty()
        most = [most_pages(capacity, group.window, rows) for group in self._groups]
        promised = [sequences * count for count in most]
        self._engine.promise([new - old for new, old in zip(promised, self._promised, strict=True)])
        self._held, self._most, self._promised = [self._engine.pool.no_pages() for _ in range(sequences)], most, promised

    def copy(self, other: _Pages) -> None:
        self._engine.promise(other._promised)
        self._most, self._promised = other._most, other._promised
        self._held = [[list(pages) for pages in held] for held in other._held]
        for held in self._held:
            self._engine.pool.hold(held)

    def release(self) -> None:
        self.empty()
        for group, count in zip(self._groups, self._promised, strict=True):
            group.promise(-count)
        self._promised = [0] * len(self._groups)

    def empty(self) -> None:
        for held in self._held:
            for group, pages in zip(self._groups, held, strict=True):
                group.free_promised(pages)
                pages.clear()

    def lack(self, start: int) -> bool:
        """Whether pages are gone that tokens from position `start` on would see."""
        first = [first_page(start, group.window) for group in self._groups]
        return any(GONE in pages[index:] for held in self._held for pages, index in zip(held, first, strict=True))

    def table(self, start: int, stop: int) -> NDArray[np.int32]:
        """[groups, sequences, widest]: pages for all positions up to `stop`, those from `start` on being nobody else's."""
        end = pages_for(stop)
        for held in self._held:
            for number, pages in enumerate(held):
                self._let_go(number, pages, start, end)
                written = pages_to_write(self._groups[number].window, start // PAGE_SIZE, end)
                pages += [GONE] * (written.start - len(pages))
                for index in written:
                    self._own(number, pages, index, filled=start > index * PAGE_SIZE)
        tables = [[held[number][:end] for held in self._held] for number in range(len(self._groups))]
        return np.maximum(_int32(tables), 0)  # any page will do for what nothing reads

    def _let_go(self, number: int, pages: list[int], start: int, end: int) -> None:
        """Gives the first pages back where there are to be `end` in all, more than may be held, for a step from position `start` on."""
        group = self._groups[number]
        gone = min(end - self._most[number], first_page(start, group.window))
        if gone > 0 and (pages[gone - 1] != GONE or (group.has_states and any(page != GONE for page in pages[:gone]))):
            group.free_promised(pages[:gone])
            pages[:gone] = [GONE] * gone

    def _own(self, number: int, pages: list[int], index: int, filled: bool) -> None:
        """A page of the sequence's own at `index`, with what stood there where that is `filled`."""
        group = self._groups[number]
        if index == len(pages):
            pages.append(group.allocate_promised())
        elif group.is_shared(pages[index]):
            shared, pages[index] = pages[index], group.allocate_promised()
            if filled:
                self._engine.ops.copy_page(shared, pages[index], number)
            group.free_promised([shared])


def _int32(values: Any) -> NDArray[np.int32]:
    return np.array(values, np.int32)
