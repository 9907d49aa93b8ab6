"""`Answer`: one request to the engine and the text of its samples. Where tokens meet text."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from linnet.engine.params import SamplingParams
from linnet.engine.request import FinishReason, Output, Request
from linnet.engine.sampling import TokenLogprob
from linnet.errors import InvalidRequestError
from linnet.outputs import Chunk, Completion, Timings, Usage
from linnet.text.detokenize import StreamDecoder

if TYPE_CHECKING:
    from linnet.text.tokenizer import Tokenizer


class Answer:
    """Follows a request from submission to its completions, one per sample."""

    def __init__(
        self, prompt: list[int], params: SamplingParams, end_ids: frozenset[int], tokenizer: Tokenizer | None, cache: bool
    ) -> None:
        seed = secrets.randbits(53) if params.seed is None else params.seed  # 53 bits: exact in any JSON reader
        self.request = Request(prompt, params, seed, frozenset() if params.ignore_eos else end_ids, cache=cache)
        self._samples: list[_Sample] = []
        for _ in range(params.n):
            decoder = None if tokenizer is None else StreamDecoder(tokenizer, params.stop, min_tokens=params.min_tokens)
            self._samples.append(_Sample(decoder))
        if tokenizer is not None:
            self.request.stop_rule = lambda sample, token: self._samples[sample].push(token)
        elif params.stop:
            raise InvalidRequestError("stop texts need a tokenizer, and this model has none; pass tokenizer=, or use stop_token_ids")

    def chunks(self, outputs: Iterable[Output]) -> Iterator[Chunk]:
        """A chunk for every output of the engine, samples interleaved as they come."""
        for output in outputs:
            if output.token_id is not None:
                yield self._chunk(output.sample, [output.token_id], output)
            else:  # max_tokens=0: the prompt was scored once, for all samples
                for index in range(len(self._samples)):
                    yield self._chunk(index, [], output)

    def _chunk(self, index: int, token_ids: list[int], output: Output) -> Chunk:
        sample, reason = self._samples[index], output.finish_reason
        sample.token_ids += token_ids
        if token_ids:
            sample.first_at = sample.first_at or output.at
        if output.logprob is not None:
            sample.logprobs.append(output.logprob)
        text = sample.take(last=reason is not None)
        completion = None if reason is None else self._completion(index, sample, reason, output.at)
        logprobs = None if self.request.params.logprobs is None else sample.logprobs[len(sample.logprobs) - len(token_ids) :]
        return Chunk(index, text, token_ids, logprobs, reason, completion)

    def _completion(self, index: int, sample: _Sample, reason: FinishReason, ended_at: float) -> Completion:
        request, count = self.request, len(sample.token_ids)
        sequence = request.sequences[index] if count else request.sequences[0]
        first_s = None if sample.first_at is None else sample.first_at - request.submitted_at
        after_first_s = 0.0 if sample.first_at is None else ended_at - sample.first_at
        return Completion(
            index=index,
            text="".join(sample.texts),
            token_ids=sample.token_ids,
            finish_reason=reason,
            logprobs=None if request.params.logprobs is None else sample.logprobs,
            prompt_token_ids=request.prompt,
            prompt_logprobs=request.prompt_logprobs,
            usage=Usage(len(request.prompt), count, request.cached_tokens, sequence.drafted, sequence.accepted),
            seed=request.seed,
            timings=Timings(first_s, ended_at - request.submitted_at, (count - 1) / after_first_s if after_first_s > 0 else None),
        )


class _Sample:
    """The text of one sample. The engine pushes tokens, possibly ahead of the reader, who takes the pieces one by one."""

    def __init__(self, decoder: StreamDecoder | None) -> None:
        self.decoder = decoder
        self.pieces: deque[str] = deque()
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.first_at: float | None = None

    def push(self, token: int) -> bool:
        """Takes a token that does not end the answer by its id; True where its text does."""
        assert self.decoder is not None
        self.pieces.append(self.decoder.push((token,)))
        return self.decoder.stopped is not None

    def take(self, last: bool) -> str:
        """The text of the next token ("" for one that ended the answer by its id), and the rest, after the last."""
        text = self.pieces.popleft() if self.pieces else ""
        if last and self.decoder is not None:
            text += self.decoder.finish()
        self.texts.append(text)
        return text
