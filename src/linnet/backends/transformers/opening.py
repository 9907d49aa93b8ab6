"""Opening a model with transformers: from a folder and options to what `LLM` runs requests with."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from linnet.backends.transformers.engine import TransformersEngine
from linnet.backends.transformers.loading import find_folder, load, read_config
from linnet.backends.transformers.tokenizer import read_tokenizer
from linnet.load.files import read_json
from linnet.memory import clear_memory_cache
from linnet.model_options import ModelOptions
from linnet.opening import Opened
from linnet.prompts import PromptReader, given_tokenizer, read_chat_template
from linnet.text.grammar import GrammarCompiler


def open_model(model: str | Path, options: ModelOptions) -> Opened:
    """Everything that can fail by a wrong option or for want of memory comes before the weights are read. Raises as `LLM` says, and
    MissingDependencyError without transformers."""
    folder, name = find_folder(model), str(model)
    config = read_config(folder, options.trust_remote_code)
    given = options.tokenizer
    tokenizer = read_tokenizer(folder, options.trust_remote_code) if given is None else given_tokenizer(given)
    template = read_chat_template(options.chat_template, tokenizer)
    found = load(folder, config, options)
    engine = TransformersEngine(found, options.batch, options.max_queue)
    files = ExitStack()
    if found.device.type != "cpu":
        files.callback(clear_memory_cache, str(found.device))
    advice = folder / "generation_config.json"
    return Opened(
        engine=engine,
        tokenizer=tokenizer,
        reader=PromptReader(name, tokenizer, template, options.tool_format, whole=found.reads_first),
        grammars=GrammarCompiler(tokenizer, found.vocab_size),
        end_ids=found.end_ids or frozenset(() if tokenizer is None else tokenizer.eos_ids),
        files=files,
        name=name,
        vocab_size=found.vocab_size,
        generation=read_json(advice) if advice.is_file() else {},
    )
