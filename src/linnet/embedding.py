"""What a model makes of a prompt without answering: logits after each token, and embeddings, pooled from the hidden states that logits
are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linnet.engine.engine import Engine
from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.engine.runner import Runner
from linnet.load.pooling import Pooling


def prompt_logits(engine: Runner, vocab: int, token_ids: list[int]) -> NDArray[np.float32]:
    """Float32 [tokens, vocab], after each token."""
    request = Request(token_ids, SamplingParams(max_tokens=0), seed=0)
    engine.check(request)
    logits = np.empty((len(token_ids), vocab), np.float32)

    def keep(position: int, rows: NDArray[np.float32]) -> None:
        logits[position : position + len(rows)] = rows

    request.prompt_logits = keep
    engine.submit(request)
    for _ in engine.outputs(request):
        pass
    return logits


class EmbeddingHandle:
    """The embeddings of submitted texts: take the `result`, in a coroutine `await aresult()`; or `cancel`.

    No more run at once than the batch holds, so that many texts do not fill the queue.
    """

    def __init__(
        self, engine: Engine, prompts: Sequence[list[int]], pooling: Pooling, normalize: bool, timeout: float | None = None
    ) -> None:
        self._engine, self._normalize = engine, normalize
        self._pools = [_Pool(len(prompt), pooling) for prompt in prompts]
        self._requests = [pool.request(prompt, timeout) for pool, prompt in zip(self._pools, prompts, strict=True)]
        for request in self._requests:
            engine.check(request)
        self._submitted = 0
        self.prompt_tokens = sum(map(len, prompts))

    def result(self) -> NDArray[np.float32]:
        """Float32 [texts, hidden]. Raises what made one of them fail; the others are given up then."""
        try:
            for request in self._in_turn():
                for _ in self._engine.outputs(request):
                    pass
        finally:
            self.cancel()
        return self._vectors()

    async def aresult(self) -> NDArray[np.float32]:
        """As `result`, and the event loop is not held up; a task that is cancelled gives all of them up."""
        try:
            for request in self._in_turn():
                while not request.done:
                    await self._engine.wait(request)
                if request.error is not None:
                    raise request.error
        finally:
            self.cancel()
        return self._vectors()

    def cancel(self) -> None:
        """Ends what still runs, and frees what it held."""
        for request in self._requests[: self._submitted]:
            self._engine.cancel(request)

    def _in_turn(self) -> Iterator[Request]:
        """Every request, submitted before it is waited for."""
        for index, request in enumerate(self._requests):
            while self._submitted < min(len(self._requests), index + self._engine.max_batch):
                self._engine.submit(self._requests[self._submitted])
                self._submitted += 1
            yield request

    def _vectors(self) -> NDArray[np.float32]:
        return np.stack([pool.vector(self._normalize) for pool in self._pools])


class _Pool:
    """The vector of one text as its rows come. Sums are float64, row by row: the same in any cut of the prompt."""

    def __init__(self, length: int, pooling: Pooling) -> None:
        self.length, self.pooling = length, pooling
        self.total: NDArray[np.float64] | None = None

    def request(self, prompt: list[int], timeout: float | None) -> Request:
        first = self.length - 1 if self.pooling == "last" else 0
        params = SamplingParams(max_tokens=0, timeout=timeout)
        return Request(prompt, params, 0, prompt_logits=self.add, logits_from=max(0, first), hidden=True)

    def add(self, position: int, rows: NDArray[np.float32]) -> None:
        """Takes rows of hidden states, [k, hidden], borrowed for the call."""
        for row in rows.astype(np.float64):
            self.total = row if self.total is None or self.pooling == "last" else self.total + row

    def vector(self, normalize: bool) -> NDArray[np.float32]:
        assert self.total is not None
        vector = self.total / self.length if self.pooling == "mean" else self.total
        length = float(np.sqrt(vector @ vector))
        return (vector / length if normalize and length > 0 else vector).astype(np.float32)
