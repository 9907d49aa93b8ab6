"""`Answer`: one request to the engine, and the text of its samples. This is where tokens become text."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING

from linnet.engine.constraint import AfterToken
from linnet.engine.params import SamplingParams
from linnet.engine.request import FinishReason, Output, Request
from linnet.engine.sampling import TokenLogprob
from linnet.errors import InvalidRequestError
from linnet.outputs import Chunk, Completion, EndReason, Timings, Usage
from linnet.text.detokenize import StreamDecoder
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallEnded, Event, TextDelta
from linnet.text.tool_calls.tools import ToolCall

if TYPE_CHECKING:
    from linnet.text.grammar import GrammarCompiler
    from linnet.text.tokenizer import Tokenizer
    from linnet.text.tool_calls.use import ToolUse


class Answer:
    """Follows a request from submission to its completions, one per sample."""

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        end_ids: frozenset[int],
        tokenizer: Tokenizer | None,
        cache: bool = True,
        continues: bool = False,
        tool_use: ToolUse | None = None,
    ) -> None:
        """continues: whether the answer continues a text. An answer under a constraint never does: it is a text by itself."""
        seed = secrets.randbits(53) if params.seed is None else params.seed  # 53 bits: exact in any JSON reader
        self.request = Request(prompt, params, seed, frozenset() if params.ignore_eos else end_ids, cache=cache)
        self._tool_use = tool_use
        self._samples: list[_Sample] = []
        shown = frozenset() if tool_use is None else tool_use.shown
        self.continues = continues and params.constraint is None

        def decodes(tokenizer: Tokenizer) -> StreamDecoder:
            return StreamDecoder(tokenizer, params.stop, min_tokens=params.min_tokens, shown=shown, continues=self.continues)

        for _ in range(params.n):
            decoder = None if tokenizer is None else decodes(tokenizer)
            self._samples.append(_Sample(decoder, tool_use))
        if tokenizer is not None:
            self.request.stop_rule = lambda sample, token: self._samples[sample].push(token)
            if params.num_beams > 1:
                decoder = decodes(tokenizer)
                if tool_use is not None and not tool_use.parallel:
                    self.request.text = _OneCall(decoder, tool_use)
                elif params.stop:
                    self.request.text = decoder
        elif params.stop:
            raise InvalidRequestError("stop texts need a tokenizer, and this model has none; pass tokenizer=, or use stop_token_ids")

    def constrain(self, grammars: GrammarCompiler, vocab: int) -> None:
        """Compiles the constraint that the answer has to satisfy, if there is one. Raises InvalidRequestError if that is not possible."""
        request, use = self.request, self._tool_use
        asked = request.params.constraint if use is None else use.constraint(request.params.constraint)
        if asked is not None:
            grammar = grammars.compile(*asked)
            after = None if use is None else use.after
            request.constraint = grammar if after is None else AfterToken(after, grammar, vocab, request.ends)

    def chunks(self, outputs: Iterable[Output]) -> Iterator[Chunk]:
        """A chunk for every output of the engine; samples are interleaved, as the outputs are."""
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
        events = sample.take(last=reason is not None)
        text = "".join([event.text for event in events if isinstance(event, TextDelta)])
        completion = None if reason is None else self._completion(index, sample, reason, output.at)
        logprobs = None if self.request.params.logprobs is None else sample.logprobs[len(sample.logprobs) - len(token_ids) :]
        return Chunk(index, text, token_ids, logprobs, completion.finish_reason if completion else None, completion, events)

    def _completion(self, index: int, sample: _Sample, reason: FinishReason, ended_at: float) -> Completion:
        request, count = self.request, len(sample.token_ids)
        first_s = None if sample.first_at is None else sample.first_at - request.submitted_at
        end: EndReason = "tool_calls" if sample.calls and reason == "stop" else reason
        after_first_s = 0.0 if sample.first_at is None else ended_at - sample.first_at
        return Completion(
            index=index,
            text="".join(sample.texts),
            token_ids=sample.token_ids,
            finish_reason=end,
            logprobs=None if request.params.logprobs is None else sample.logprobs,
            prompt_token_ids=request.prompt,
            prompt_logprobs=request.prompt_logprobs,
            usage=Usage(len(request.prompt), count, request.cached_tokens, *request.guessed(index)),
            seed=request.seed,
            timings=Timings(first_s, ended_at - request.submitted_at, (count - 1) / after_first_s if after_first_s > 0 else None),
            tool_calls=sample.calls,
            beam_score=request.beam_scores[index] if request.beam_scores else None,
            stop_text=None if sample.decoder is None else sample.decoder.stopped,
        )


class _Sample:
    """The text of one sample. The engine pushes tokens, possibly ahead of the reader, which takes the pieces one by one."""

    def __init__(self, decoder: StreamDecoder | None, tool_use: ToolUse | None) -> None:
        self.decoder, self.parser = decoder, None if tool_use is None else tool_use.parser()
        self.watcher = None if tool_use is None or tool_use.parallel else tool_use.parser()  # reads what is pushed, ahead of the reader
        self.pieces: deque[str] = deque()
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.first_at: float | None = None
        self.calls: list[ToolCall] = []
        self._begun = ToolCall("", "", "")

    def push(self, token: int) -> bool:
        """Takes a token that is no end token. True if its text ends the answer, by a stop text or a complete tool call."""
        assert self.decoder is not None
        self.pieces.append(self.decoder.push((token,)))
        if self.watcher is not None and _call_ended(self.watcher.push(self.pieces[-1])):
            return True
        return self.decoder.stopped is not None

    def take(self, last: bool) -> list[Event]:
        """What the next token adds (an end token adds nothing); with the last token, also all that was held back."""
        text = self.pieces.popleft() if self.pieces else ""
        if last and self.decoder is not None:
            text += self.decoder.finish()
        if self.parser is None:
            events: list[Event] = [TextDelta(text)] if text else []
        else:
            events = self.parser.push(text) + (self.parser.finish() if last else [])
            if self.watcher is not None and (end := _call_ended(events)):
                events = events[:end]  # the token that ends the call may begin what follows it
        for event in events:
            self._keep(event)
        return events

    def _keep(self, event: Event) -> None:
        call = self._begun
        if isinstance(event, TextDelta):
            self.texts.append(event.text)
        elif isinstance(event, CallBegun):
            self._begun = ToolCall(event.id, event.name, "")
        elif isinstance(event, ArgumentsDelta):
            self._begun = ToolCall(call.id, call.name, call.arguments_json + event.text)
        elif isinstance(event, CallEnded):
            self.calls.append(call)


class _OneCall:
    """The text of a beam that ends with its first tool call, unless a stop text ends it before.

    Parsers cannot be forked as beams are. So the text is parsed again from its start, but only after a token with a closing brace, which
    is how the calls of every format end. stopped: the text that ended the beam.
    """

    def __init__(self, decoder: StreamDecoder, tool_use: ToolUse) -> None:
        self.stopped: str | None = None
        self._decoder, self._tool_use = decoder, tool_use
        self._text = ""

    def fork(self) -> _OneCall:
        new = copy(self)
        new._decoder = self._decoder.fork()
        return new

    def push(self, token_ids: Iterable[int]) -> str:
        new = self._decoder.push(token_ids)
        self._text += new
        self.stopped = self._decoder.stopped
        if "}" in new and _call_ended(self._tool_use.parser().push(self._text)):
            self.stopped = self._text
        return new


def _call_ended(events: Sequence[Event]) -> int:
    """The number of events up to and including the end of the first call; 0 if no call ends."""
    return next((count for count, event in enumerate(events, 1) if isinstance(event, CallEnded)), 0)
