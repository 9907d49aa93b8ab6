"""`Generation`: one call of transformers' `generate`, followed token by token."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linnet.backends.transformers.choosing import Chooser
from linnet.backends.transformers.model import TextModel
from linnet.backends.transformers.settings import most_answer
from linnet.engine.request import FinishReason, Output, Request
from linnet.engine.sampling import TokenLogprob, refuse_logits, token_logprob
from linnet.errors import LinnetError

_DRAWS = threading.Lock()
"""In beams, `generate` draws from the one generator that the process has: one call at a time does, over all models."""


@dataclass(eq=False)
class Row:
    """One sample of a request, and a row of the batch. limit: most tokens of it. last_at: when its last came, by time.perf_counter()."""

    request: Request
    index: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    last_at: float | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, by itself or with its request."""
        return self.reason is not None or self.request.done

    def push(self, token: int, logprob: TokenLogprob | None) -> Output:
        """Takes the next token, and says what came of it."""
        self.tokens.append(token)
        rule = self.request.stop_rule
        if token in self.request.ends or (rule is not None and rule(self.index, token)):
            self.reason = "stop"
        elif len(self.tokens) == self.limit:
            self.reason = "length"
        return Output(self.index, token, logprob, self.reason, time.perf_counter())


class Generation:
    """The samples of requests that mean the same `settings`, and run together.

    emit: called with a row and each of its outputs. fail: called with a request and what its own callable raised. stepped: called
    after each step with the number of rows that took it; it may end requests.
    """

    def __init__(
        self,
        model: TextModel,
        requests: Sequence[Request],
        settings: dict[str, Any],
        emit: Callable[[Row, Output], None],
        fail: Callable[[Request, Exception], None],
        stepped: Callable[[int], None],
    ) -> None:
        self.model, self.settings = model, settings
        self.rows = [Row(request, index, most_answer(request, model)) for request in requests for index in range(request.params.n)]
        self._emit, self._fail, self._stepped = emit, fail, stepped
        self._beams = settings["num_beams"] > 1
        self._shares: list[tuple[Chooser, slice]] = []
        for request in requests:
            first = self._shares[-1][1].stop if self._shares else 0
            self._shares.append((Chooser(request, model.device), slice(first, first + request.params.n)))
        self._logits: Any = None
        self._start = 0

    def score_prompts(self) -> None:
        """Gives requests that want them the logits of their prompts."""
        import torch

        for request in dict.fromkeys(row.request for row in self.rows):
            if request.prompt_logits is not None:
                ids = torch.tensor([request.prompt], device=self.model.device)
                with torch.inference_mode():
                    logits = self.model.model(ids).logits[0, request.logits_from :].float().cpu().numpy()
                request.prompt_logits(request.logits_from, logits)

    def run(self) -> None:
        """To the end of every row. Raises what transformers and PyTorch raise."""
        import torch
        from transformers import GenerationConfig

        make_config: Any = GenerationConfig
        # With beams, transformers makes the samples of a prompt out of one row.
        rows = [row for row in self.rows if not self._beams or row.index == 0]
        ids, mask = self._batch([row.request.prompt for row in rows])
        self._start = 1 if self.model.reads_first else ids.shape[1]
        config = make_config(**{**self.settings, "max_new_tokens": max(row.limit for row in self.rows)})
        inputs = {"attention_mask": mask} if self.model.masks else {}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if config.do_sample:
                stack.enter_context(_seeded(self.rows[0].request.seed, self.model.device))
            if any(row.request.params.logprobs is not None for row in self.rows):
                stack.callback(self.model.model.register_forward_hook(self._keep_logits).remove)
            sequences = self.model.model.generate(
                inputs=ids,
                generation_config=config,
                logits_processor=[self._check_beams if self._beams else self._choose],
                stopping_criteria=[self._give_up if self._beams else self._follow],
                **inputs,
            )
        if self._beams:
            self._take_whole(sequences[:, self._start :].tolist())

    def _batch(self, prompts: list[list[int]]) -> tuple[Any, Any]:
        """Token ids and mask, int64 [prompts, longest]: an encoder's prompts begin together, a decoder's end together."""
        import torch

        longest = max(map(len, prompts))
        ids, mask = np.full((len(prompts), longest), self.model.pad_id, np.int64), np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            place = slice(0, len(prompt)) if self.model.reads_first else slice(longest - len(prompt), longest)
            ids[row, place], mask[row, place] = prompt, 1
        return torch.from_numpy(ids).to(self.model.device), torch.from_numpy(mask).to(self.model.device)

    def _keep_logits(self, module: Any, inputs: Any, output: Any) -> None:
        """The model's own logits after the last token, before any penalty."""
        self._logits = output.logits[:, -1].float().cpu().numpy()

    def _choose(self, ids: Any, scores: Any) -> Any:
        """Called by transformers before each token, scores float32 [rows, vocab] after its penalties: the caller's own processor, and
        draws, each by the request's own generator; of a row that draws, one token is left."""
        for chooser, rows in self._shares:
            if chooser.request.done:
                continue
            try:
                ended = self._mask([row.done for row in self.rows[rows]], ids)
                scores[rows] = chooser.choose(ids[rows, self._start :], scores[rows], ended)
            except Exception as error:
                self._fail(chooser.request, error)
        return scores

    def _check_beams(self, ids: Any, scores: Any) -> Any:
        """The same for beams, scores log-probabilities [beams, vocab]: of logits that are not finite they are no numbers."""
        import torch

        beams = self.settings["num_beams"]
        for index, (chooser, _) in enumerate(self._shares):
            own = slice(index * beams, (index + 1) * beams)
            if torch.isnan(scores[own]).any():
                scores[own] = 0.0  # nobody waits for them, and others of the batch go on
                try:
                    refuse_logits(math.nan, chooser.request.params)
                except LinnetError as error:
                    self._fail(chooser.request, error)
        return scores

    def _follow(self, ids: Any, scores: Any, **_: Any) -> Any:
        """Called by transformers after each step, ids [rows, so far]: takes the new tokens, and says which rows are done."""
        going = [index for index, row in enumerate(self.rows) if not row.done]
        for index, token in zip(going, ids[going, -1].tolist(), strict=True):
            row = self.rows[index]
            top = row.request.params.logprobs
            if not row.done:  # else its request has just failed
                self._emit(row, row.push(token, None if top is None else token_logprob(self._logits[index], token, top)))
        self._stepped(len(going))
        return self._mask([row.done for row in self.rows], ids)

    def _give_up(self, ids: Any, scores: Any, **_: Any) -> Any:
        """The same for beams, which change places until the end: whether nobody waits for them any longer."""
        self._stepped(len(ids))
        return self._mask([all(row.request.done for row in self.rows)] * len(ids), ids)

    def _mask(self, done: list[bool], ids: Any) -> Any:
        import torch

        return torch.tensor(done, device=ids.device)

    def _take_whole(self, sequences: list[list[int]]) -> None:
        for row, tokens in zip(self.rows, sequences, strict=True):
            for token in tokens:
                if not row.done:
                    self._emit(row, row.push(token, None))


@contextmanager
def _seeded(seed: int, device: Any) -> Iterator[None]:
    """Draws as after `torch.manual_seed(seed)`, and leaves the process' generators as they were."""
    import torch

    kept = [device.index or 0] if device.type in ("cuda", "xpu") else []
    with _DRAWS, torch.random.fork_rng(devices=kept, device_type=device.type if kept else "cuda"):
        torch.manual_seed(seed)
        yield
