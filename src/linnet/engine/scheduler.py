"""Which sequences run in the next step, how many tokens of each, and in which pages. First come, first served."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable
from itertools import islice
from operator import attrgetter

from linnet.engine.batch import Chunk
from linnet.engine.page_table import PageTable
from linnet.engine.pages import GONE, PagePool, pages_for
from linnet.engine.prefix_cache import PrefixCache
from linnet.engine.request import Request, Sequence
from linnet.ops.base import PAGE_SIZE

_order = attrgetter("order")


class Scheduler:
    """Continuous batching (Yu et al., Orca, 2022): every running sequence that only lacks its last token gets that
    row in every step; the others share `prefill_chunk` rows. Where `whole_prompts`, none is cut: one that is longer has a step of
    its own.

    A sequence is admitted when there are pages for the tokens that it has, and one for each that runs; it takes more as it grows.
    When none is free, the one that is last in order gives all of its pages back and waits, to be computed again with the tokens
    that it has (Kwon et al., PagedAttention, 2023). The first in order always goes on, and the engine admits no request that the pool
    cannot hold alone; so everything ends.

    Beams of one search are chosen from together, so that each waits for the others. They have slots set aside for them from their
    request's admission on; and where one gave way, it comes back at the expense of whatever came after its request, lest two searches wait
    for each other. The engine admits no search whose beams the pool cannot hold side by side, sharing nothing.

    Samples of one prompt share its pages, which a request keeps as its trunk until each sample has begun; whoever writes to a page
    that others hold too gets a copy of its own. Each group of layers gives back the pages before its window.

    page_table: slots and pages of the running sequences. waiting, running: in order. trunks: requests that have one.
    """

    def __init__(
        self,
        pool: PagePool,
        context: int,
        max_batch: int,
        prefill_chunk: int,
        logit_rows: int,
        copy_page: Callable[[int, int, int], None],
        prefixes: PrefixCache | None = None,
        whole_prompts: bool = False,
    ) -> None:
        self.pool, self.prefixes = pool, prefixes
        self.page_table = PageTable(pool, context, max_batch, copy_page)
        self.context = context
        self.prefill_chunk, self.whole_prompts = prefill_chunk, whole_prompts
        self.logit_rows = logit_rows
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.trunks: list[Request] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_order)

    def plan(self) -> list[Chunk]:
        """The next step; empty when nothing runs or waits."""
        while any(self._admit(sequence) for sequence in self._next()):
            pass
        chunks = []
        tokens_left, rows_left = self.prefill_chunk, self.logit_rows
        for sequence in tuple(self.running):
            if sequence.slot < 0:  # gave its pages to one before it, as all after it did
                break
            lacking = sequence.lacking
            count = self._count(sequence, tokens_left, rows_left)
            if not count:
                continue
            if not self._make_writable(sequence, count):
                break
            wanted = max(int(count == lacking), sequence.owed(count))
            if sequence.scores_prompt and not sequence.request.hidden:
                rows_left = max(0, rows_left - wanted)
            if lacking > 1:
                tokens_left = max(0, tokens_left - count)
            chunks.append(Chunk(sequence, count, wanted))
        return chunks

    def _count(self, sequence: Sequence, tokens_left: int, rows_left: int) -> int:
        """How many tokens of a sequence run in a step that has room for so many more of prompts, and rows of prompt logits."""
        lacking = sequence.lacking
        count = lacking if lacking == 1 else min(lacking, tokens_left)
        if sequence.scores_prompt and not sequence.request.hidden:
            count = min(count, max(0, sequence.scored - sequence.computed) + rows_left)
        if count < lacking and self.whole_prompts:
            untouched = (tokens_left, rows_left) == (self.prefill_chunk, self.logit_rows)
            return lacking if untouched else 0
        return count

    def advance(self, sequence: Sequence, count: int) -> None:
        """`count` more tokens of a sequence have their keys and values."""
        start, sequence.computed = sequence.computed, sequence.computed + count
        if self.pool.has_states:
            self.page_table.drop_passed_over(sequence, start)
        if self.prefixes is not None and sequence.computed // PAGE_SIZE > sequence.named:
            self.prefixes.store(sequence, self.page_table.rope_length(sequence))
        self.page_table.give_back(sequence)

    def room_for_guesses(self, sequence: Sequence, count: int) -> int:
        """How many positions after the next one of a sequence that runs have pages, up to `count`; a page that is free is taken for them,
        but nobody gives way."""
        for room in range(count, 0, -1):
            end = pages_for(sequence.computed + 1 + room)
            if self.pool.has([end - len(pages) for pages in sequence.pages]):
                self._make_writable(sequence, 1 + room)
                return room
        return 0

    def fork(self, first: Sequence) -> None:
        """Once the first sample has computed the prompt: the others wait for their turn to go on from its last token."""
        request = first.request
        if request.cache and first.computed > 1 and not self.pool.has_states:  # there is no state before the last token
            request.trunk = [pages[: pages_for(first.computed - 1)] for pages in first.pages]
            self.pool.hold(request.trunk)
            self.trunks.append(request)
        for sequence in request.sequences[1:]:
            self.add(sequence)

    def branch(self, source: Sequence, target: Sequence) -> None:
        """Has one sequence of a request stand where another does: in the same pages, which they share until one of them writes there."""
        self.remove(target)
        target.begun, target.tokens, target.start = True, list(source.tokens), source.start
        target.names, target.named, target.computed = list(source.names), source.named, source.computed
        if source.slot < 0:  # it comes to pages of its own as any that gave way
            target.computed = target.named = 0
            self.add(target)
            return
        self.pool.hold(source.pages)
        target.pages = [list(pages) for pages in source.pages]
        self._run(target, self.page_table.rope_length(source))

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it stands, and frees what it held."""
        if sequence.slot >= 0:
            self._stop(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Has a running sequence wait, to be computed again with the tokens that it has."""
        self._stop(sequence)
        sequence.computed = sequence.named = 0
        self.add(sequence)

    def end_trunk(self, request: Request) -> None:
        """Samples that have not begun by now compute the prompt themselves, as far as it is not found."""
        if request in self.trunks:
            self.trunks.remove(request)
            self.pool.free(request.trunk)
            request.trunk = []

    def promise(self, counts: list[int]) -> None:
        """Promises pages of each group to somebody else; the caller has seen to it that every sequence can still run alone."""
        while not self.pool.has(counts):
            self._reclaim()
        for group, count in zip(self.pool.groups, counts, strict=True):
            group.promise(count)

    # ---- admission
    def _next(self) -> list[Sequence]:
        """Which of those that wait may come next: the first in order, and the first beam for which others wait."""
        missing = (sequence for sequence in self.waiting if _is_missed(sequence))
        return [*self.waiting[:1], *islice(missing, 1)]

    def _has_slot(self, request: Request) -> bool:
        """Whether there is a slot for a sequence of the request, or for all its beams; those that beams of others are yet to take are
        set aside."""
        seated = Counter(other.request for other in self.running)
        missing = sum(len(other.sequences) - count for other, count in seated.items() if other.beams is not None and other is not request)
        needed = len(request.sequences) - seated[request] if request.beams is not None else 1
        return self.page_table.free_slots - missing >= needed

    def _admit(self, sequence: Sequence) -> bool:
        """Gives a waiting sequence a slot and pages for its tokens, if there are enough."""
        request, pool = sequence.request, self.pool
        seen = len(sequence.tokens) - sequence.start
        rope_length = min(self.context, len(request.prompt) + sequence.limit)
        if request.trunk and sequence.start == max(0, len(request.prompt) - self.context):  # else it has slid on since
            pages, computed = request.trunk, len(request.prompt) - sequence.start - 1
        else:
            pages, count = (pool.no_pages(), 0) if self.prefixes is None else self.prefixes.find(sequence, rope_length)
            computed = count * PAGE_SIZE
            if self._is_coming(sequence, count, rope_length):
                return False
        pool.hold(pages)
        length = pages_for(min(seen + 1, self.context))  # a text that fills the context slides before it needs another
        fresh = [min(length - len(held), most - _held(held)) for held, most in zip(pages, sequence.need, strict=True)]
        while not self._has_room(sequence, fresh, copies=bool(computed % PAGE_SIZE)):
            if self._overtakes(sequence):
                self._reclaim()
            elif any(not _search_together(sequence, other) for other in self.running):
                pool.free(pages)
                return False
            elif self.trunks:
                self.end_trunk(self.trunks[-1])
            else:
                break  # it is alone, but for beams beside it, and fits: see Engine.check
        self.waiting.remove(sequence)
        taken = [0 if group.has_states else count for group, count in zip(pool.groups, fresh, strict=True)]  # which page it is shows later
        sequence.pages = [held + group.allocate(count) for group, held, count in zip(pool.groups, pages, taken, strict=True)]
        sequence.computed, sequence.named = computed, computed // PAGE_SIZE
        self._run(sequence, rope_length)
        if not sequence.begun:
            sequence.begun = True
            if sequence.index == 0:
                request.cached_tokens = computed
            elif all(other.begun for other in request.sequences):
                self.end_trunk(request)
        return True

    def _has_room(self, sequence: Sequence, fresh: list[int], copies: bool) -> bool:
        """Whether there is a slot, and so many fresh pages of each group with one for each sequence that may need one next (of states,
        those that it may hold); copies: so does this one."""
        wanted = [count + copies for count in fresh]
        for other in self.running:
            for number, (group, pages, most) in enumerate(zip(self.pool.groups, other.pages, other.need, strict=True)):
                wanted[number] += min(max(0, most - _held(pages)), most if group.has_states else 1)
        return self._has_slot(sequence.request) and self.pool.has(wanted)

    def _overtakes(self, sequence: Sequence) -> bool:
        """Whether the last in order is to give way to a sequence that waits."""
        last = self.running[-1] if self.running else sequence
        return _is_missed(sequence) and last.order > sequence.order and not _search_together(sequence, last)

    def _is_coming(self, sequence: Sequence, index: int, rope_length: int) -> bool:
        """Whether one that came before and is still reading its prompt will fill the page at `index`: it is waited for, rather than have
        the same read twice. Until then it has the first claim on the rows of each step anyway."""
        before = [other for other in self.running if other.lacking > 1 and other.order < sequence.order]
        lengths = [(other, self.page_table.rope_length(other)) for other in before]
        return self.prefixes is not None and self.prefixes.is_coming(sequence, index, rope_length, lengths)

    def _run(self, sequence: Sequence, rope_length: int) -> None:
        self.page_table.seat(sequence, rope_length)
        insort(self.running, sequence, key=_order)

    # ---- pages
    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.page_table.unseat(sequence)

    def _make_writable(self, sequence: Sequence, count: int) -> bool:
        """Sees to it that the next `count` positions of a sequence have pages that nobody else reads; False where it had to give up
        its own."""
        self.page_table.begin_anew(sequence)
        for number, group in enumerate(self.pool.groups):
            for index in self.page_table.pages_to_own(sequence, number, group, count):
                while not self.page_table.own(sequence, number, group, index):
                    if self._reclaim() is sequence:
                        return False
        return True

    def _reclaim(self) -> Sequence | None:
        """Frees pages: trunks first, then what the last in order holds, which is then returned."""
        if self.trunks:
            self.end_trunk(self.trunks[-1])
            return None
        victim = self.running[-1]
        self.put_back(victim)
        self.preemptions += 1
        return victim


def _is_missed(sequence: Sequence) -> bool:
    """Whether it is a beam of a search that has begun."""
    return sequence.request.beams is not None and sequence.generated > 0


def _search_together(one: Sequence, other: Sequence) -> bool:
    return one.request is other.request and one.request.beams is not None


def _held(pages: list[int]) -> int:
    return len(pages) - pages.count(GONE)
