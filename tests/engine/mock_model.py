"""A model for engine tests: no layers, and logits that are a fixed function of the tokens read back from its KV pages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from linnet.arch import spec
from linnet.arch.spec import ModelSpec
from linnet.engine.draft_model import DraftModel
from linnet.engine.engine import Engine
from linnet.engine.page_plan import LayerGroups
from linnet.engine.pages import STATE
from linnet.engine.params import SamplingParams
from linnet.engine.request import Output, Request
from linnet.ops.base import PAGE_SIZE, Batch, Step
from linnet.ops.sampling import sample
from linnet.ops.states import state_runs
from linnet.weights import Linear, Weights

VOCAB = 50
CONTEXT = 200


class MockOps:
    """The part of `Ops` that a model without layers uses. Its pages hold the tokens themselves, so a page that two
    sequences share, or that is freed too early, changes what is generated. windows: how many of the last tokens its logits see in
    the pages of each group, the widest first. A state is how many tokens there were so far, and which."""

    name = "mock"
    keeps_bits = True

    def __init__(self, windows: tuple[int | None, ...] = (None,)) -> None:
        self.windows = windows
        self.pages: list[NDArray[np.int64]] = []
        self.steps: list[int] = []  # rows of each step
        self.wanted: list[int] = []
        self.longest: list[int] = []  # most rows of one sequence
        self.sequences: list[int] = []
        self.fail: Exception | None = None
        self.interrupt = False  # once, when pages and states have been written
        self.copies = 0

    def allocate_cache(self, spec: ModelSpec, pages: Sequence[int], kv_dtype: str, groups: Sequence[int] = ()) -> None:
        sizes = [1 + CONTEXT if window == STATE else PAGE_SIZE for window in self.windows]
        self.pages = [np.full((count, size), -1, np.int64) for count, size in zip(pages, sizes, strict=True)]

    def free_cache(self) -> None:
        self.pages = []

    def copy_page(self, source: int, target: int, group: int) -> None:
        self.copies += 1
        self.pages[group][target] = self.pages[group][source]

    def stepper(self, spec: ModelSpec, build: Callable[[], NDArray[np.float32]]) -> Step:
        self.bidirectional = spec.bidirectional_prompt

        def step(batch: Batch) -> NDArray[np.float32]:
            self._begin(batch)
            return build()

        return step

    def _begin(self, batch: Batch) -> None:
        if self.fail is not None:
            raise self.fail
        self.batch = batch
        self.steps.append(len(batch.tokens))
        self.wanted.append(len(batch.rows))
        self.sequences.append(len(set(batch.sequence.tolist())))
        self.longest.append(int(np.bincount(batch.sequence).max()))
        for field in fields(Batch):
            assert getattr(batch, field.name).dtype == np.int32
        assert (np.diff(batch.rows) > 0).all()

    def embed(self, table: Any, source: str, offset: int = 0) -> NDArray[np.int64]:
        batch = self.batch
        assert source == "tokens"
        self.told: dict[tuple[int, int], list[int]] = {}  # by group and row: what a state said after it
        for group, (stored, table) in enumerate(zip(self.pages, batch.page_table, strict=True)):
            if self.windows[group] == STATE:
                self._pass_states(group, stored)
                continue
            pages = table[batch.sequence, batch.positions // PAGE_SIZE]
            assert (pages >= 0).all()
            stored[pages, batch.positions % PAGE_SIZE] = batch.tokens
        return np.arange(len(batch.tokens))

    def _pass_states(self, group: int, stored: NDArray[np.int64]) -> None:
        for run in state_runs(self.batch, group):
            count, tokens = (0, []) if run.source is None else (stored[run.source, 0], stored[run.source, 1:].tolist())
            assert count == self.batch.positions[run.rows.start], "a state of another position"
            history = [*tokens[:count], *self.batch.tokens[run.rows].tolist()]
            for row in range(run.rows.start, run.rows.stop):
                count += 1
                self.told[group, row] = history[:count]
            for row, page in run.saved:
                after = self.told[group, run.rows.start + row]
                stored[page, : 1 + len(after)] = [len(after), *after]

    def take(self, x: Any) -> Any:
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        return x[self.batch.rows]

    def logits(self, x: Any, matrix: Any, bias: Any, output: spec.Output) -> NDArray[np.float32]:
        batch = self.batch
        out = np.empty((len(x), VOCAB), np.float32)
        for row, result in zip(x, out, strict=True):
            sequence, last = batch.sequence[row], batch.positions[row]
            if self.bidirectional:
                last = max(last, batch.prompt_lengths[sequence] - 2)
            histories = [
                self.told[group, row] if window == STATE else stored[table[sequence]].ravel()[: last + 1][-(window or 0) :].tolist()
                for group, (stored, table, window) in enumerate(zip(self.pages, batch.page_table, self.windows, strict=True))
            ]
            widest = histories[0]
            for history in histories:
                seen = min(len(history), len(widest))
                assert history[-seen:] == widest[-seen:]
            result[:] = mock_logits(widest, int(batch.rope_lengths[sequence]))
        return out

    def sample(
        self,
        logits: NDArray[np.float32],
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        uniform: float,
        allowed: NDArray[np.uint32] | None = None,
    ) -> int:
        for value in (temperature, top_p, min_p, uniform):
            assert type(value) is float
        return sample(logits, temperature, top_k, top_p, min_p, uniform, allowed)


def mock_logits(history: list[int], rope_length: int) -> NDArray[np.float32]:
    """Standard-normal logits [VOCAB], doubled, that depend on every token of the history and on the rope length."""
    digest = hashlib.sha256(f"{history} {rope_length}".encode()).digest()
    return (2 * np.random.default_rng(list(digest)).standard_normal(VOCAB)).astype(np.float32)


MOCK = ModelSpec("mock", VOCAB, 1, CONTEXT, layers=(), final_norm=None, tied=True)
NO_WEIGHTS = Weights(embedding=None, layers=(), output=Linear(None))


def mock_engine(
    context: int = CONTEXT,
    pages: int | tuple[int, ...] = 64,
    max_batch: int = 8,
    prefill_chunk: int = 64,
    bidirectional: bool = False,
    slides: bool = False,
    prefix_cache: bool = True,
    max_queue: int | None = None,
    draft: DraftModel | None = None,
    windows: tuple[int | None, ...] = (None,),
) -> Engine:
    """pages: of every group, or of each. windows: of each, how many of the last tokens its logits depend on, the widest first; where there
    is a draft model, the first keeps every page all the same. bidirectional: every token of a prompt but its last sees all of the prompt
    but its last."""
    spec = replace(MOCK, context=context, bidirectional_prompt=bidirectional)
    sizes: dict[str, Any] = {
        "context": context,
        "pages": [pages] * len(windows) if isinstance(pages, int) else list(pages),
        "max_batch": max_batch,
        "prefill_chunk": prefill_chunk,
    }
    options: dict[str, Any] = {"slides": slides, "prefix_cache": prefix_cache, "max_queue": max_queue, "draft": draft}
    kept = (None if draft is not None else windows[0], *windows[1:])
    with patch("linnet.engine.engine.layer_groups", lambda spec, draft: LayerGroups(kept, ())):
        return Engine(MockOps(windows), spec, NO_WEIGHTS, kv_dtype="f32", **sizes, **options)


def request(prompt: list[int], seed: int = 7, end_ids: frozenset[int] = frozenset(), cache: bool = True, **options: Any) -> Request:
    """A request that guesses nothing unless asked to: steps can then be counted."""
    return Request(prompt, SamplingParams(**{"speculation": "off", **options}), seed, end_ids, cache=cache)


def run(engine: Engine, *requests: Request) -> list[list[int]]:
    """Token ids of every sample of every request, all submitted at once."""
    for r in requests:
        engine.submit(r)
    answers = []
    for r in requests:
        answers += tokens_of(r, list(engine.outputs(r)))
    return answers


def tokens_of(r: Request, outputs: list[Output]) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(r.params.n)]
    for output in outputs:
        if output.token_id is not None:
            answers[output.sample].append(output.token_id)
    return answers
