"""`Chooser`: from scores to tokens, for what transformers leaves open: the caller's own processor, and draws by a seed."""

from __future__ import annotations

from typing import Any

from linnet.engine.request import Request
from linnet.engine.sampling import processed, refuse_logits


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

    def choose(self, ids: Any, scores: Any, ended: Any) -> Any:
        """Scores float32 [samples, vocab] after answers of token ids [samples, so far]: processed, and where the request draws, 0 for the
        token that was drawn and -inf for all others. ended: bool [samples], those of which nothing matters but that they draw, too.
        Raises what the caller's processor raises, and where nothing is left to choose from."""
        import torch

        scores = scores.masked_fill(ended[:, None], 0.0)
        # Taken now, as the processor may write into what it reads. -inf: the request's own options forbade all tokens, not the model.
        most = scores.amax(-1).clamp(min=0.0)
        if self.request.params.logits_processor is not None:
            for sample in torch.nonzero(~ended).flatten().tolist():
                scores[sample] = torch.from_numpy(self._process(ids[sample].tolist(), scores[sample])).to(scores)
        bad = ~torch.isfinite(scores.amax(-1))
        if bad.any():
            refuse_logits(float(most[bad][0]), self.request.params)
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
