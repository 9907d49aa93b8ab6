"""Speculation: guessed tokens ride along in a step, and those that come out as drawn need no step of their own.

A step takes a sequence's last token and its guesses, and gives the logits after each. From these the tokens are drawn one after the
other, as ever: each by its own number, with all that the request asks for. As long as the draw is the guess, the next row of logits
is that of the next draw; the first other draw ends the round, and is a token like the rest. So speculation changes no token; guesses
only decide how many come out of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import repeat

from linnet.engine.batch import Chunk
from linnet.engine.draft_model import DraftModel
from linnet.engine.lookup import Lookup, PairIndex
from linnet.engine.request import Sequence
from linnet.engine.scheduler import Scheduler
from linnet.engine.step_costs import StepCosts

logger = logging.getLogger("linnet.engine")

SIZES = (1, 2, 3, 5, 7, 11, 15)
"""How many tokens may be guessed at once: few choices, so that each is soon measured; with the last token, whole tiles of the kernels."""

FIRST = 2
"""Most tokens of a first guess; then as many more than this as twice those that came."""

MARGIN = 0.05
"""What a guess must gain, in tokens: less cannot be told from the noise of what is measured."""

WEIGHT = 0.15
"""What the draft model's last token counts for, among all that it guessed for a sequence."""

PAUSES = (64, 1024)
"""Tokens to wait for until a draft model that did not pay is tried again: at first, and at most, after doubling each time."""


@dataclass(eq=False)
class Speculation:
    """What is known of guessing one sequence.

    lookup: its past, unless only the draft model is to guess; drafted: whether that may. rate: how likely the draft model's next token is
    to come. resumes: how many tokens there will be when a draft model that did not pay is tried again; pause: how many more it takes the
    time after. most: how many tokens may be guessed next. by_draft: whether the present guess is the draft model's.
    """

    lookup: Lookup | None
    drafted: bool
    rate: float = 0.7
    resumes: int = 0
    pause: int = PAUSES[0]
    most: int = FIRST
    by_draft: bool = False

    def rest(self, generated: int) -> None:
        """The draft model does not pay at present. It will have to read what it missed."""
        self.resumes = generated + self.pause
        self.pause = min(2 * self.pause, PAUSES[1])
        self.rate = max(self.rate, 0.5)

    def learn(self, guessed: int, came: int) -> None:
        self.most = FIRST + 2 * came
        if self.by_draft:
            for hit in [*repeat(1, came), *repeat(0, came < guessed)]:
                self.rate += WEIGHT * (hit - self.rate)
            if came == guessed:
                self.pause = PAUSES[0]


class Speculator:
    """Decides, for every step, which sequences guess and how far: as far as more tokens a second are expected of it.

    What a guess is worth follows from how many of the like came in this sequence; what it costs, from how long steps of so many rows
    took. Guesses ride with decoding sequences only: a step that reads prompts has no time to spare. They count as prompts' tokens do
    against what a step may hold, and take free pages only. Where layers are recurrent, nothing is guessed: a state cannot be taken back.
    keeps_bits: whether the op set gives a row the same bits among others; where it
    does not, guessing may change tokens as any batch may, and is left to those who ask for it, by name or by a draft model.
    """

    def __init__(self, scheduler: Scheduler, draft: DraftModel | None, keeps_bits: bool) -> None:
        self.scheduler = scheduler
        self.draft = draft
        self.keeps_bits = keeps_bits
        self.costs = StepCosts()

    def extend(self, plan: list[Chunk]) -> list[Chunk]:
        """The planned step with what is guessed."""
        count = len(plan)
        if (
            self.scheduler.pool.has_states or not _decodes(plan) or not self.costs.is_known(count)
        ):  # else this step is measured without guesses
            return plan
        worth = self.costs.seconds(count) / count
        rows, left = count, min(self.scheduler.prefill_chunk, self.scheduler.logit_rows - count)
        guesses: dict[Sequence, list[int]] = {}
        asked: dict[Sequence, int] = {}
        for sequence in (chunk.sequence for chunk in plan):
            state = self._state(sequence)
            size = 0 if state is None else self._size(sequence, state, worth, rows, left)
            if state is None or not size:
                continue
            rows, left = rows + size, left - size
            if state.by_draft:
                asked[sequence] = size
            elif state.lookup is not None:
                guesses[sequence] = state.lookup.guess(sequence.tokens, size)
        guesses.update(self._ask(asked))
        return [replace(chunk, guesses=tuple(guesses.get(chunk.sequence, ()))) for chunk in plan] if guesses else plan

    def record(self, plan: list[Chunk], seconds: float) -> None:
        """How long the forward of a step took."""
        if _decodes(plan):
            self.costs.record(sum(1 + len(chunk.guesses) for chunk in plan), seconds)

    def settle(self, chunk: Chunk, came: int) -> None:
        """After a step: `came` of the guesses are part of the sequence now; what stands in the pages of the others is given up."""
        sequence, state = chunk.sequence, chunk.sequence.speculation
        sequence.drafted += len(chunk.guesses)
        sequence.accepted += came
        assert state is not None
        state.learn(len(chunk.guesses), came)
        if self.draft is not None and state.by_draft:
            self.draft.settle(sequence)
        self.scheduler.page_table.trim(sequence)

    def _state(self, sequence: Sequence) -> Speculation | None:
        """What is known of a sequence; None where nothing is to be guessed."""
        request, mode = sequence.request, sequence.request.params.speculation
        if (
            mode == "off"
            or request.beams is not None
            or not request.cache
            or not sequence.generated
            or sequence.limit - sequence.generated < 2
        ):
            return None
        if sequence.speculation is None:
            if request.pairs is None:
                request.pairs = PairIndex(0)
            looks_up = mode == "lookup" or (mode == "auto" and self.keeps_bits)
            lookup = Lookup(request.pairs, len(request.prompt)) if looks_up else None
            sequence.speculation = Speculation(lookup, drafted=mode != "lookup")
        return sequence.speculation

    def _size(self, sequence: Sequence, state: Speculation, worth: float, rows: int, left: int) -> int:
        """How many tokens of a sequence to guess in a step of so many rows that may have `left` more. worth: seconds of a token."""
        seen = len(sequence.tokens) - sequence.start
        most = min(state.most, left, sequence.limit - sequence.generated - 1, self.scheduler.context - seen)
        size, gain, state.by_draft = 0, 0.0, False
        if state.lookup is not None:
            state.lookup.follow(sequence.tokens)
            if state.lookup.length:
                size, gain = self._best(state.lookup.rates(), most, worth, rows, 0.0)
        if self.draft is not None and state.drafted and sequence.generated >= state.resumes:
            reach = min(most, self.draft.spec.context - seen)
            drafted, its_gain = self._best(repeat(state.rate), reach, worth, rows, self.draft.seconds)
            if not drafted and reach > 0:
                if not self._best(repeat(1.0), FIRST, worth, rows, self.draft.seconds)[0]:
                    state.drafted = False  # as slow as that, it never will
                state.rest(sequence.generated)
            if its_gain > gain:
                size, state.by_draft = drafted, True
        return self.scheduler.room_for_guesses(sequence, size)

    def _best(self, rates: Iterable[float], most: int, worth: float, rows: int, each: float) -> tuple[int, float]:
        """How many tokens to guess, 0 where it does not pay, and the seconds that it is expected to gain. rates: how likely each is to
        come where those before it do. each: seconds that one costs to guess."""
        size, best = 0, MARGIN * worth
        chance, expected, plain = 1.0, 0.0, self.costs.seconds(rows)
        for number, rate in zip(range(1, most + 1), rates, strict=False):
            chance *= rate
            expected += chance
            if number in SIZES:
                gain = worth * expected - (self.costs.seconds(rows + number) - plain) - each * number
                if gain > best:
                    size, best = number, gain
        return size, best if size else 0.0

    def _ask(self, asked: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """The draft model's guesses. Where it fails, the engine goes on without: no answer depends on it."""
        if self.draft is None or not asked:
            return {}
        try:
            guesses = self.draft.guess(asked, self.scheduler.page_table.tables)
        except Exception:
            logger.exception("the draft model failed; answers go on without it")
            self.draft.close()
            self.draft = None
            guesses = {}
        for sequence in asked:
            if not guesses.get(sequence):
                self.scheduler.page_table.trim(sequence)
        return guesses


def _decodes(plan: list[Chunk]) -> bool:
    """Whether a step reads no prompt, but for a last token."""
    return all(chunk.count == 1 and not chunk.sequence.request.hidden for chunk in plan)
