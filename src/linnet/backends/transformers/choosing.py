"""`Chooser`: from scores to tokens, for what transformers leaves open: the caller's own processor, and draws by a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnet.engine.request import Request
from linnet.engine.sampling import processed


class Chooser:
    """Of one request: all of its samples draw from one generator, as those of transformers do after `torch.manual_seed(seed)`."""

    def __init__(self, request: Request, device: Any) -> None:
        import torch
        from transformers.generation import logits_process as library

        self.request, params = request, request.params
        self._generator: Any = torch.Generator(device).manual_seed(request.seed) if params.temperature > 0 else None
        makers: Any = library
        self._warpers: list[Any] = []
        if params.temperature not in (0.0, 1.0):
            self._warpers.append(makers.TemperatureLogitsWarper(params.temperature))
        if params.top_k:
            self._warpers.append(makers.TopKLogitsWarper(params.top_k))
        if params.top_p < 1.0:
            self._warpers.append(makers.TopPLogitsWarper(params.top_p))
        if params.min_p:
            self._warpers.append(makers.MinPLogitsWarper(params.min_p))

    def choose(self, ids: Any, scores: Any) -> Any:
        """Scores float32 [samples, vocab] after answers of token ids [samples, so far]: processed, and where the request draws, 0 for the
        token that was drawn and -inf for all others. Raises what the caller's processor raises."""
        import torch

        if self.request.params.logits_processor is not None:
            made = [self._process(answer, row) for answer, row in zip(ids.tolist(), scores, strict=True)]
            scores = torch.from_numpy(np.stack(made)).to(scores)
        if self._generator is None:
            return scores
        for warper in self._warpers:
            scores = warper(ids, scores)
        drawn = torch.multinomial(torch.softmax(scores, -1), 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def _process(self, answer: list[int], row: Any) -> Any:
        processor = self.request.params.logits_processor
        assert processor is not None
        return processed(processor([*self.request.prompt, *answer], row.cpu().numpy()), tuple(row.shape))
