"""Opening a model: from a checkpoint and options to `Opened`, with which `LLM` runs requests."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from linnet.answer import Answer
from linnet.choosing import choose
from linnet.draft import Draft, open_draft, read_draft
from linnet.engine.engine import Engine
from linnet.engine.memory_errors import planned
from linnet.engine.page_plan import plan_pages
from linnet.engine.params import SamplingParams, given_params
from linnet.engine.runner import Runner
from linnet.load.checkpoint import Checkpoint
from linnet.model_options import ModelOptions
from linnet.op_set import OpSet, open_op_set
from linnet.outputs import Chunk, Completion
from linnet.prompts import PromptReader, read_chat_template, read_tokenizer
from linnet.text.grammar import GrammarCompiler
from linnet.text.tokenizer import Tokenizer
from linnet.text.tool_calls.use import ToolUse

logger = logging.getLogger("linnet.llm")


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run.

    end_ids: tokens that end an answer. files: what has to be closed after the engine. name: what messages call the model. vocab_size: its
    embedding rows. generation: generation_config.json, as published. checkpoint: None with another backend than Linnet's own."""

    engine: Runner
    tokenizer: Tokenizer | None
    reader: PromptReader
    grammars: GrammarCompiler
    end_ids: frozenset[int]
    files: ExitStack
    name: str
    vocab_size: int
    generation: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None

    def answer(
        self, prompt: list[int], params: SamplingParams | None, cache: bool = True, continues: bool = False, tool_use: ToolUse | None = None
    ) -> Answer:
        """An answer whose request has passed every check, and whose grammar is compiled."""
        answer = Answer(prompt, given_params(params), self.end_ids, self.tokenizer, cache, continues, tool_use)
        self.engine.check(answer.request)
        answer.constrain(self.grammars, self.vocab_size)
        return answer

    def stream(self, answer: Answer) -> Generator[Chunk, None, None]:
        """Submits an answer's request, and gives its chunks as they come. Closing the iterator early cancels it."""
        self.engine.submit(answer.request)
        with closing(self.engine.outputs(answer.request)) as outputs:
            yield from answer.chunks(outputs)

    def run(self, answers: list[Answer]) -> list[Completion]:
        """All of them at once, to their ends; where one fails, the others are cancelled."""
        completions: list[Completion] = []
        try:
            for answer in answers:
                self.engine.submit(answer.request)
            for answer in answers:
                found = [chunk.completion for chunk in answer.chunks(self.engine.outputs(answer.request)) if chunk.completion]
                completions += sorted(found, key=lambda completion: completion.index)
        finally:
            for answer in answers:
                self.engine.cancel(answer.request)
        return completions


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Opened:
    """Checks everything that can be wrong with options or memory before it reads the weights. If anything fails, the checkpoint is
    closed."""
    spec, draft = checkpoint.spec, None
    with ExitStack() as files:
        files.callback(checkpoint.close)
        options.check_context(spec)
        guessing = read_draft(options)
        if guessing is not None:
            files.callback(guessing.close)
        options = choose(checkpoint, options, guessing)
        slides = options.slides(spec, checkpoint.slides)
        op_set = open_op_set(options, checkpoint)
        files.callback(op_set.close)
        reader = _reader(checkpoint, options)
        # The context decides what a model that slides sees. So memory must hold all of it; a shorter one would change the answers.
        wanted = spec.context if slides and options.context is None else options.context
        reserved = op_set.weight_bytes
        if guessing is not None:
            draft = open_draft(guessing, options, checkpoint, op_set, reader.tokenizer)
            reserved += draft.op_set.weight_bytes
        needs = (wanted, options.batch, options.kv_memory, reserved, op_set.memory, None if draft is None else draft.op_set.spec)
        pages, context = plan_pages(op_set.spec, options.kv_type, *needs, prefill_chunk=options.prefill_chunk)
        with planned(checkpoint.name, reserved):
            engine = _load(checkpoint, options, op_set, draft, context=context, pages=pages, slides=slides)
        logger.debug("%s: %s, %d layers, context %d, %s ops", checkpoint.name, spec.family, len(spec.layers), context, op_set.ops.name)
        return Opened(
            engine=engine,
            tokenizer=reader.tokenizer,
            reader=reader,
            grammars=GrammarCompiler(reader.tokenizer, spec.vocab_size),
            end_ids=_end_ids(checkpoint, reader.tokenizer),
            files=files.pop_all(),
            name=checkpoint.name,
            vocab_size=spec.vocab_size,
            generation=checkpoint.generation,
            checkpoint=checkpoint,
        )


def _load(checkpoint: Checkpoint, options: ModelOptions, op_set: OpSet, draft: Draft | None, **planned: Any) -> Engine:
    """The engine, with its weights read. planned: its arguments that do not follow directly from an option."""
    return Engine(
        op_set.ops,
        op_set.spec,
        op_set.load(checkpoint, options),
        kv_dtype=options.kv_type,
        max_batch=options.batch,
        prefill_chunk=options.prefill_chunk,
        prefix_cache=options.prefix_cache,
        max_queue=options.max_queue,
        draft=None if draft is None else draft.load(),
        **planned,
    )


def _reader(checkpoint: Checkpoint, options: ModelOptions) -> PromptReader:
    tokenizer = read_tokenizer(checkpoint, options.tokenizer)
    return PromptReader(checkpoint.name, tokenizer, read_chat_template(options.chat_template, tokenizer), options.tool_format)


def _end_ids(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The tokens that end an answer, by the files of the model and of the tokenizer (which may have tokens that the model does not)."""
    ends = {*checkpoint.eos_token_ids, *(tokenizer.eos_ids if tokenizer else ())}
    return frozenset(token for token in ends if token < checkpoint.spec.vocab_size)
