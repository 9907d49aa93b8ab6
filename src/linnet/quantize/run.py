"""`linnet.quantize` step by step: everything that can be refused comes before any work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.hub import BUILT_IN, locate
from linnet.ops.native import default_threads
from linnet.prompts import read_tokenizer
from linnet.quantize import Progress
from linnet.quantize.atomic import check_apart, check_output, check_space, whole_file
from linnet.quantize.evaluate import read_text
from linnet.quantize.file_types import BITS, FILE_TYPES, Choice, Chosen, choose_types, file_type, is_quantized, overrides, tensor_type
from linnet.quantize.gguf_model import GgufModel, gguf_model
from linnet.quantize.gguf_writer import GgufWriter, file_bytes
from linnet.quantize.importance import calibrated, read_importance, write_importance
from linnet.quantize.progress import counter
from linnet.quantize.report import QuantizeReport, evaluated, report_of
from linnet.quantize.stream import Importance, Written, entry_of, write_tensors
from linnet.quantize.vocabulary import vocabulary_metadata
from linnet.tensors import FLOATS, TensorType
from linnet.text.tokenizer import Tokenizer

QUANTIZATION_VERSION = 2
"""Of the block formats, as `general.quantization_version` counts."""


@dataclass(frozen=True)
class Job:
    """The arguments of `linnet.quantize`, where they are documented."""

    model: str | Path
    out: str | Path
    type: str | None
    bits: int | None
    pure: bool
    tensor_types: Mapping[str, str] | None
    output_type: str | None
    embedding_type: str | None
    calibrate: str | Path | None
    calibration_tokens: int | None
    importance: str | Path | None
    save_importance: str | Path | None
    eval_text: str | Path | None
    eval_tokens: int | None
    special: bool
    tokenizer: Any
    threads: int | None
    force: bool
    plot: str | Path | None
    progress: Progress | None

    @property
    def calibration_length(self) -> int:
        """Most tokens to calibrate with."""
        return 16_384 if self.calibration_tokens is None else self.calibration_tokens

    @property
    def evaluation_length(self) -> int:
        """Most tokens to compare on."""
        return 4096 if self.eval_tokens is None else self.eval_tokens


def run(job: Job) -> QuantizeReport:
    choice = _choice(job)
    _check(job)
    _check_places(job)
    out = _path(job.out)
    started = time.monotonic()
    checkpoint = open_checkpoint(job.model)
    try:
        tokenizer = read_tokenizer(checkpoint, job.tokenizer)
        text = _evaluation_text(job)
        if tokenizer is None and (text is not None or job.calibrate is not None):
            raise InvalidRequestError(f"{checkpoint.name} has no tokenizer, which calibration and evaluation need; pass tokenizer=")
        model, notes = with_vocabulary(checkpoint, gguf_model(checkpoint), tokenizer, job)
        chosen = choose_types(choice, model.tensors, model.spec, model.architecture)
        notes += _fallback_notes(chosen)
        _check_importance(job, chosen)
        if not job.force:
            _check_not_lower(chosen)
        metadata = {"general.architecture": model.architecture, **model.metadata, **_of_the_file(choice)}
        check_space(out, file_bytes(metadata, [entry_of(one) for one in chosen]))
        importance = _importance(job, checkpoint, tokenizer, model)
        tensors = _write(job, out, metadata, chosen, importance)
        report = report_of(checkpoint, out, choice, tensors, notes, time.monotonic() - started)
        if text is not None:
            assert tokenizer is not None
            report = replace(report, evaluation=evaluated(checkpoint, out, tokenizer, text, job))
    finally:
        checkpoint.close()
    if job.plot is not None:
        from linnet.quantize.plot import plot

        plot(report, _path(job.plot), job.force)
    return report


def _choice(job: Job) -> Choice:
    if (job.type is None) == (job.bits is None):
        raise InvalidRequestError(f"give a type or bits, one of the two; types are {', '.join(FILE_TYPES)}")
    if job.bits is not None and job.bits not in BITS:
        raise InvalidRequestError(f"bits is {job.bits!r}; there are {', '.join(f'{n} ({name})' for n, name in BITS.items())}")
    chosen = file_type(BITS[job.bits] if job.bits is not None else str(job.type))
    return Choice(
        chosen,
        job.pure,
        overrides(job.tensor_types or {}),
        None if job.output_type is None else tensor_type(job.output_type, "output_type"),
        None if job.embedding_type is None else tensor_type(job.embedding_type, "embedding_type"),
        calibrated=job.calibrate is not None or job.importance is not None,
    )


def _check(job: Job) -> None:
    """What can be refused without a look at the model."""
    if job.calibrate is not None and job.importance is not None:
        raise InvalidRequestError("give calibrate or importance, one of the two")
    if job.save_importance is not None and job.calibrate is None:
        raise InvalidRequestError("save_importance keeps what calibrate finds; give calibrate, too")
    _check_texts(job)
    if job.threads is not None and (type(job.threads) is not int or not 1 <= job.threads <= 1024):
        raise InvalidRequestError(f"threads is {job.threads!r}; it must be from 1 to 1024")
    if job.calibrate is not None:
        read_text("calibrate", _path(job.calibrate), job.calibration_length)


def _check_texts(job: Job) -> None:
    """What is said about texts, of which there must be one."""
    for name, text, own in (("calibration_tokens", "calibrate", False), ("eval_tokens", "eval_text", job.model == BUILT_IN)):
        tokens = getattr(job, name)
        if tokens is None:
            continue
        if type(tokens) is not int or tokens < 2:
            raise InvalidRequestError(f"{name} is {tokens!r}; it must be an integer from 2 on")
        if getattr(job, text) is None and not own:
            raise InvalidRequestError(f"{name} says how much is read of a text, and there is none; give {text}, too")
    if job.special and job.calibrate is None and job.eval_text is None:
        raise InvalidRequestError("special is of the texts that calibrate and eval_text name; give one of them, or leave special out")


def _check_places(job: Job) -> None:
    """Everything that is written has a place of its own, and everything that is read stays."""
    given = {"OUT": job.out, "save_importance": job.save_importance, "plot": job.plot}
    outputs = {name: _path(path) for name, path in given.items() if path is not None}
    for path in outputs.values():
        check_output(path, job.force)
    if job.plot is not None:
        from linnet.charts import check_plot

        check_plot(outputs["plot"])
    read = {"calibrate": job.calibrate, "importance": job.importance, "eval_text": job.eval_text}
    check_apart(outputs, {"MODEL": locate(job.model), **{name: _path(path) for name, path in read.items() if path is not None}})


def _path(path: str | Path) -> Path:
    return Path(path).expanduser()


def _evaluation_text(job: Job) -> tuple[str, bool] | None:
    """The text, and whether its control tokens are themselves."""
    if job.eval_text is not None:
        return read_text("eval_text", _path(job.eval_text), job.evaluation_length), job.special
    if job.model == BUILT_IN:
        return read_text("eval_text", locate(BUILT_IN) / "held_out.txt", job.evaluation_length), True
    return None


def with_vocabulary(checkpoint: Checkpoint, model: GgufModel, tokenizer: Tokenizer | None, job: Job) -> tuple[GgufModel, list[str]]:
    """The model with its tokenizer's keys, and notes. A GGUF file keeps its own, unless another tokenizer is given."""
    notes = list(model.notes)
    if checkpoint.naming == "gguf" and job.tokenizer is None:
        return model, notes
    if tokenizer is None:
        keys: dict[str, Any] = {"tokenizer.ggml.model": "no_vocab"}
        notes.append("the model has no tokenizer: llama.cpp will take token ids alone")
    else:
        keys, more = vocabulary_metadata(tokenizer, model.spec.vocab_size, checkpoint.eos_token_ids, job.force)
        notes += more
    kept = {key: value for key, value in model.metadata.items() if not key.startswith("tokenizer.")}
    if checkpoint.naming != "gguf":
        kept["general.type"] = "model"
        named = Path(checkpoint.name)
        kept["general.name"] = (named.stem if checkpoint.path is not None and checkpoint.path.is_file() else named.name) or "model"
    return replace(model, metadata={**kept, **keys}), notes


def _fallback_notes(chosen: list[Chosen]) -> list[str]:
    """What got another type than was wanted, by the two types."""
    groups: dict[tuple[TensorType, TensorType], list[Chosen]] = {}
    for one in chosen:
        if one.instead is not None:
            groups.setdefault((one.instead, one.type), []).append(one)
    return [
        f"{_some(found)}: rows of {found[0].tensor.shape[-1]} are no multiple of {wanted.name.upper()}'s {wanted.block}, "
        f"fallback type {type.name.upper()}"
        for (wanted, type), found in groups.items()
    ]


def _some(found: list[Chosen]) -> str:
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].tensor.name}{more}"


def _check_importance(job: Job, chosen: list[Chosen]) -> None:
    """Raises InvalidRequestError for importances that nothing would be rounded by."""
    given = "calibrate" if job.calibrate is not None and job.save_importance is None else "importance"
    if getattr(job, given) is not None and all(one.type in FLOATS for one in chosen):
        raise InvalidRequestError(f"{given} is for types of few bits, and {job.type} rounds every number by itself; leave {given} out")


def _check_not_lower(chosen: list[Chosen]) -> None:
    """Raises InvalidRequestError where matrices are quantized already to as few bits as are wanted."""
    wasted = sorted((one for one in chosen if is_quantized(one.tensor) and _is_lower(one)), key=lambda one: _bits(one.tensor.stored))
    if wasted:
        first = wasted[0]
        raise InvalidRequestError(
            f"{_some(wasted)}: stored as {first.tensor.stored.name.upper()} ({_bits(first.tensor.stored):.3g} bits per weight) already, "
            f"and {first.type.name.upper()} takes {_bits(first.type):.3g}: nothing is won and more is lost; take the original model, "
            "a smaller type, or --force (force=True)"
        )


def _is_lower(one: Chosen) -> bool:
    stored = one.tensor.stored
    return stored not in FLOATS and stored != one.type and _bits(stored) <= _bits(one.type)


def _bits(type: TensorType) -> float:
    return 8 * type.block_bytes / type.block


def _of_the_file(choice: Choice) -> dict[str, Any]:
    found = {"general.file_type": choice.file_type.id}
    return found if choice.file_type.type in FLOATS else {**found, "general.quantization_version": QUANTIZATION_VERSION}


def _importance(job: Job, checkpoint: Checkpoint, tokenizer: Tokenizer | None, model: GgufModel) -> Importance:
    if job.importance is not None:
        return read_importance(_path(job.importance), model.tensors)
    if job.calibrate is None:
        return {}
    assert tokenizer is not None
    text = read_text("calibrate", _path(job.calibrate), job.calibration_length)
    token_ids = tokenizer.encode(text, bos=False, special=job.special)[: job.calibration_length]
    found = calibrated(checkpoint, tokenizer, token_ids, model.tensors, job.threads, job.progress)
    if job.save_importance is not None:
        write_importance(_path(job.save_importance), found, str(job.calibrate), job.force)
    return found.means()


def _write(job: Job, out: Path, metadata: dict[str, Any], chosen: list[Chosen], importance: Importance) -> list[Written]:
    advance = counter(job.progress, "writing", sum(one.tensor.values for one in chosen))
    with whole_file(out, job.force) as file:
        writer = GgufWriter(file, metadata, [entry_of(one) for one in chosen])
        tensors = write_tensors(writer, chosen, importance, job.threads or default_threads(), advance)
        writer.finish()
    return tensors
