"""`LLM`: open a model, and generate, stream, chat, score and trace with it."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from linnet.answer import Answer
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table
from linnet.embedding import EmbeddingHandle, prompt_logits
from linnet.engine.counters import Counters
from linnet.engine.engine import Engine
from linnet.engine.params import MAX_CANDIDATES, SamplingParams, given_params
from linnet.engine.sampling import TokenLogprob
from linnet.engine.session import Session
from linnet.errors import InvalidRequestError, LinnetError
from linnet.handle import Handle
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.pooling import resolve_pooling
from linnet.memory import clear_memory_cache
from linnet.model_options import ModelOptions
from linnet.opening import Opened, open_model
from linnet.outputs import Chunk, Completion, TraceStep
from linnet.prompts import Message, Prompt
from linnet.text.tokenizer import Tokenizer
from linnet.text.tool_calls.tools import Tool, ToolChoice
from linnet.tracing import trace_steps


class LLM:
    """A language model, ready to run: `LLM("tiny")`, or a folder, a .gguf file, or a hub id in the local cache.

    `ModelOptions` says what each option means and which values it takes. Every request is checked completely before any work is done,
    and gives the same tokens alone, among others, streamed, or from another thread. Close it with `close()`, or use it in a `with`
    statement.

    Raises ModelFileError and UnsupportedModelError for files, InvalidRequestError for options, OutOfMemoryError for a
    context whose KV cache does not fit.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        ops: str = "auto",
        backend: str = "linnet",
        weights: str = "auto",
        tokenizer: Tokenizer | str | Path | None = None,
        chat_template: str | None = None,
        tool_format: str = "auto",
        threads: int | None = None,
        prefill_threads: int | None = None,
        context: int | None = None,
        overflow: str = "auto",
        kv_dtype: str = "auto",
        kv_memory: int | None = None,
        max_batch: int | None = None,
        prefill_chunk: int = 512,
        max_queue: int | None = None,
        prefix_cache: bool = True,
        draft: str | Path | None = None,
        low_memory: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        tp: int = 1,
        offload: int | None = None,
        compile: bool = False,
        adapters: Mapping[str, str] | Sequence[str] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        given = locals()
        options = ModelOptions(**{name: given[name] for name in given if name not in ("self", "model")})
        if not isinstance(model, (str, Path)):
            raise InvalidRequestError(f"model is {model!r}; it must be a path or a name, such as 'tiny'")
        if options.backend == "transformers":
            from linnet.backends.transformers.opening import open_model as open_transformers

            self._take(open_transformers(model, options))
        else:
            self._take(open_model(open_checkpoint(model), options))

    @classmethod
    def from_state_dict(
        cls,
        config_or_spec: Any,
        state_dict: Mapping[str, Any],
        tokenizer: Tokenizer | str | Path | None = None,
        strict: bool = True,
        table: Table | None = None,
        **options: Any,
    ) -> LLM:
        """An LLM over weights that are already in memory, as NumPy arrays or torch tensors. They belong to a known family and have its
        Hugging Face names; or to a model of your own, given as a ModelSpec and a `table` of its names (docs/own-model.md).

        config_or_spec: a ModelSpec, the content of a config.json, or a transformers config. options: as in `LLM`. Matrices that
        are not re-encoded are used in place, without a copy: changing them later changes the model. Raises ModelFileError
        with a list of names that are missing, have the wrong shape, or (if `strict`) are unexpected.
        """
        checked = ModelOptions(tokenizer=tokenizer, **options)
        return cls._opened(Checkpoint.from_memory(config_or_spec, state_dict, strict, table), checked)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **options: Any) -> LLM:
        """An LLM over a checkpoint that is already open, and that is closed together with the LLM. options: as in `LLM`."""
        return cls._opened(checkpoint, ModelOptions(**options))

    @classmethod
    def _opened(cls, checkpoint: Checkpoint, options: ModelOptions) -> LLM:
        if options.backend != "linnet":
            checkpoint.close()
            raise InvalidRequestError(f"backend={options.backend!r} opens folders by their names, as LLM(model, backend=...)")
        llm = cls.__new__(cls)
        llm._take(open_model(checkpoint, options))
        return llm

    def _take(self, opened: Opened) -> None:
        self.tokenizer = opened.tokenizer
        self._model = opened
        self._engine, self._reader = opened.engine, opened.reader

    @property
    def spec(self) -> ModelSpec:
        """What the model is. Raises InvalidRequestError with another backend: only Linnet's own engine has a spec."""
        return self._checkpoint.spec

    @property
    def _checkpoint(self) -> Checkpoint:
        if self._model.checkpoint is None:
            raise self._elsewhere()
        return self._model.checkpoint

    def _elsewhere(self) -> InvalidRequestError:
        return InvalidRequestError(f"{self.name} was opened with another backend, and only Linnet's own has this; leave backend out")

    @property
    def name(self) -> str:
        """How error messages refer to the model: the path or name that it was opened with."""
        return self._model.name

    @property
    def vocab_size(self) -> int:
        """Number of embedding rows: token ids run from 0 to vocab_size - 1. The tokenizer may know fewer tokens."""
        return self._model.vocab_size

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together. For a model that slides (overflow="slide"): how many tokens it sees at once."""
        return self._engine.context

    @property
    def engine(self) -> Engine:
        """What runs the requests, for code that works with token ids and times, as `linnet.bench` does. Raises as `spec` does."""
        if not isinstance(self._engine, Engine):
            raise self._elsewhere()
        return self._engine

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """The publisher's recommended sampling: the content of generation_config.json, empty if there is none. The shell and the server
        follow it; this class applies only what the caller asks for."""
        return self._model.generation

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        cache: bool = True,
    ) -> list[Completion]:
        """Completes one prompt or many, which run together. Gives a Completion for every sample of every prompt, in order; with
        `num_beams`, for the n best answers (fewer, if the search found fewer).

        prompts: a text, token ids, or messages; or a list of these. params: for all prompts, or a list with one for each. cache=False
        recomputes everything for every token, with the same result. Raises InvalidRequestError, ContextLengthError,
        OutOfMemoryError or ChatTemplateError before any work, and whatever a request's own callables raise.
        """
        ids = self._reader.read_all(prompts)
        each: list[Any] = list(params) if isinstance(params, (list, tuple)) else [params] * len(ids)
        if len(each) != len(ids):
            raise InvalidRequestError(f"there are {len(ids)} prompts and {len(each)} params; give one, or as many as prompts")
        answers = []
        for i, (prompt, p, continues) in enumerate(zip(ids, each, self._reader.each_continues(prompts), strict=False)):
            try:
                answers.append(self._model.answer(prompt, p, cache, continues))
            except LinnetError as error:
                raise type(error)(f"prompts[{i}]: {error}") if len(ids) > 1 else error from None
        return self._model.run(answers)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, *, cache: bool = True) -> Generator[Chunk, None, None]:
        """Completes one prompt, with a Chunk for every token as it comes. The checks of `generate` are made immediately, before the first
        chunk is asked for. Closing the iterator early cancels the request and frees its KV pages."""
        given_params(params).refuse_beams("a stream", "ask without stream")
        return self._model.stream(self._model.answer(self._reader.read(prompt), params, cache, self._reader.continues(prompt)))

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        continues: bool | None = None,
        cache: bool = True,
    ) -> Handle:
        """Puts one prompt in the queue and returns immediately, with a `Handle` to its answer. Makes the checks of `generate`; raises
        QueueFullError if `max_queue` requests are waiting already. tools, tool_choice, parallel_tool_calls: as in `chat`; the prompt must
        then be messages. continues: whether the answer continues the prompt's text (see `Completion.text`); None: yes, if the prompt is a
        text and not empty."""
        ids, tool_use = self._reader.read_with_tools(prompt, tools, tool_choice, parallel_tool_calls)
        answer = self._model.answer(ids, params, cache, self._reader.continues(prompt, continues), tool_use)
        self._engine.submit(answer.request)
        return Handle(self._engine, answer)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = ...,
        stream: Literal[False] = ...,
        *,
        tools: Sequence[Tool] | None = ...,
        tool_choice: ToolChoice = ...,
        parallel_tool_calls: bool = ...,
        cache: bool = ...,
    ) -> Completion: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = ...,
        *,
        stream: Literal[True],
        tools: Sequence[Tool] | None = ...,
        tool_choice: ToolChoice = ...,
        parallel_tool_calls: bool = ...,
        cache: bool = ...,
    ) -> Generator[Chunk, None, None]: ...

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        stream: bool = False,
        *,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        cache: bool = True,
    ) -> Completion | Generator[Chunk, None, None]:
        """Answers a conversation, a list of {"role": ..., "content": ...}: a Completion, or with `stream` its Chunks.

        tools: what the model may call (`Completion.tool_calls`): Python functions with type hints and a docstring, or {"type":
        "function", "function": {"name", "description", "parameters": a JSON schema}}. tool_choice: "auto", "none" (the model is not
        told of them), "required", or the name of one. parallel_tool_calls=False: the first call ends the answer. Raises
        ChatTemplateError where the model has no chat template, or it refuses the messages, or has no place for tools.
        """
        params = given_params(params)
        if params.n != 1:
            raise InvalidRequestError(f"n is {params.n}, and chat gives one answer; generate([messages], params) gives {params.n}")
        if stream:
            params.refuse_beams("a stream", "ask without stream")
        ids, tool_use = self._reader.read_chat(messages, tools, tool_choice, parallel_tool_calls)
        answer = self._model.answer(ids, params, cache, tool_use=tool_use)
        return self._model.stream(answer) if stream else self._model.run([answer])[0]

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits, float32 [tokens, vocab], after each token of a sequence. vocab: the embedding's rows, padding included."""
        return prompt_logits(self._engine, self.vocab_size, self._reader.read(token_ids))

    def embed(self, texts: Prompt | Sequence[Prompt], pooling: str = "auto", normalize: bool = True) -> NDArray[np.float32]:
        """Embeddings, float32 [texts, hidden]: hidden states after the last norm, pooled. See `submit_embed`."""
        return self.submit_embed(texts, pooling, normalize).result()

    def submit_embed(
        self, texts: Prompt | Sequence[Prompt], pooling: str = "auto", normalize: bool = True, timeout: float | None = None
    ) -> EmbeddingHandle:
        """The same, without waiting. pooling: "last" takes the last token's hidden state, "mean" the mean over all tokens; "auto" follows
        the model's files (sentence-transformers' or GGUF's pooling), and is "last" if they say nothing. normalize: to length 1. timeout:
        seconds that each text may take. Raises as `generate` does, and UnsupportedModelError if the files ask for a pooling that is not
        built."""
        kind = resolve_pooling(pooling, self._checkpoint)
        return EmbeddingHandle(self.engine, self._reader.read_all(texts, closed=True), kind, normalize, timeout)

    def score(self, text: Prompt) -> list[TokenLogprob]:
        """The log-probability of every token of a text (or of token ids) except the first, which has nothing before it to predict it. If
        the tokenizer adds a beginning token, this covers every token of the text itself."""
        scored = self._model.run([self._model.answer(self._reader.read(text), SamplingParams(max_tokens=0))])[0].prompt_logprobs
        return [entry for entry in scored or () if entry is not None]

    def tokenize(
        self, prompt: Prompt, params: SamplingParams | None = None, *, tools: Sequence[Tool] | None = None, tool_choice: ToolChoice = "auto"
    ) -> list[int]:
        """The token ids that the model gets for a prompt: of a text, of messages by the chat template, or these ids themselves. tools,
        tool_choice: as in `chat`; the prompt must be messages then. params: raises as `chat` does where no answer could follow them."""
        ids, tool_use = self._reader.read_with_tools(prompt, tools, tool_choice, True)
        if params is not None:
            answer = Answer(ids, given_params(params), self._model.end_ids, self.tokenizer, tool_use=tool_use)
            answer.constrain(self._model.grammars, self.vocab_size)
        return ids

    @overload
    def trace(
        self, prompt: Prompt, top: int = ..., params: SamplingParams | None = ..., stream: Literal[False] = ...
    ) -> list[TraceStep]: ...

    @overload
    def trace(
        self, prompt: Prompt, top: int = ..., params: SamplingParams | None = ..., *, stream: Literal[True]
    ) -> Generator[TraceStep, None, None]: ...

    def trace(
        self, prompt: Prompt, top: int = 5, params: SamplingParams | None = None, stream: bool = False
    ) -> list[TraceStep] | Generator[TraceStep, None, None]:
        """Generates, and reports for every token the `top` likeliest candidates and which one was chosen; with `stream`, as they come.

        Log-probabilities are the model's own, before temperature, bias and penalties. If params ask for `prompt_logprobs`, the steps of
        the prompt's tokens come first, except for its first token.
        """
        if type(top) is not int or not 0 <= top <= MAX_CANDIDATES:
            raise InvalidRequestError(f"top is {top!r}; it must be an integer from 0 to {MAX_CANDIDATES}")
        params = given_params(params)
        if params.logprobs not in (None, top):
            raise InvalidRequestError(f"logprobs is {params.logprobs}, and a trace reports top={top} candidates; leave logprobs out")
        params = replace(params, logprobs=top)
        if params.n != 1:
            raise InvalidRequestError(f"n is {params.n}, and trace follows one answer; call it for each seed")
        params.refuse_beams("a trace", "call generate with logprobs")
        answer = self._model.answer(self._reader.read(prompt), params, continues=self._reader.continues(prompt))
        steps = self._trace(answer)
        return steps if stream else list(steps)

    def session(self, capacity: int | None = None) -> Session:
        """The model step by step: a `Session` with a KV cache of its own, for up to `capacity` tokens (None: the context)."""
        return Session(self.engine, capacity)

    def counters(self) -> Counters:
        """What was done since the LLM was opened, and what runs and waits now. May be called at any time, from any thread."""
        return self._engine.counters()

    def drain(self, timeout: float | None = None) -> bool:
        """Refuses new requests with ClosedError from now on, and runs the present ones to their ends. True once all are done; False if
        `timeout` seconds pass first (a step that has begun is finished, so it can take a little longer). Call it before `close`."""
        return self._engine.drain(math.inf if timeout is None else time.perf_counter() + timeout)

    def close(self) -> None:
        """Frees the weights and the KV cache. Requests that still run, and every later use, raise ClosedError. Closing twice is allowed."""
        self._engine.close()
        self._model.files.close()
        clear_memory_cache()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _trace(self, answer: Answer) -> Generator[TraceStep, None, None]:
        with closing(self._model.stream(answer)) as chunks:
            yield from trace_steps(answer.request, chunks, self.tokenizer)
