"""Opening a model with transformers: from a folder and options to what `LLM` runs requests with."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from linnet.backends.transformers.engine import TransformersEngine
from linnet.backends.transformers.loading import find_folder, import_transformers, load, loaded, logger, quiet, read_config
from linnet.load.files import read_json
from linnet.memory import clear_memory_cache
from linnet.model_options import ModelOptions
from linnet.opening import Opened
from linnet.prompts import PromptReader, given_tokenizer, read_chat_template
from linnet.text.grammar import GrammarCompiler
from linnet.text.tokenizer import Tokenizer, tokenizer_file


def open_model(model: str | Path, options: ModelOptions) -> Opened:
    """Everything that can fail by a wrong option or for want of memory comes before the weights are read. Raises as `LLM` says, and
    MissingDependencyError without transformers."""
    folder, name = find_folder(model), str(model)
    config = read_config(folder, options.trust_remote_code)
    tokenizer = _read_tokenizer(folder, options)
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


def _read_tokenizer(folder: Path, options: ModelOptions) -> Tokenizer | None:
    """The one that was given, the folder's, or what transformers makes of the folder's other files, once it is a tokenizer.json."""
    if options.tokenizer is not None:
        return given_tokenizer(options.tokenizer)
    if tokenizer_file(folder) is not None:
        return Tokenizer(folder)
    transformers: Any = import_transformers()
    with tempfile.TemporaryDirectory() as made, quiet():
        try:
            auto = transformers.AutoTokenizer
            loaded(
                lambda: auto.from_pretrained(folder, trust_remote_code=options.trust_remote_code, local_files_only=True), folder
            ).save_pretrained(made)
            return Tokenizer(made)
        except Exception as error:
            logger.warning("%s has no tokenizer that can be read: prompts are token ids, answers have no text (%s)", folder, error)
            return None
