"""`linnet.convert`: writes any model as a Hugging Face folder that transformers loads."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linnet.arch.config import Config
from linnet.arch.hf_config import CONVERTED, hf_configs
from linnet.arch.registry import build
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table
from linnet.errors import InvalidRequestError, LinnetError, UnsupportedModelError
from linnet.load.assemble import Place, plan, wanted
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.field import Slot
from linnet.load.files import read_json
from linnet.load.hub import locate
from linnet.model_options import ModelOptions
from linnet.ops.native import default_threads
from linnet.prompts import read_tokenizer
from linnet.quantize import Progress
from linnet.quantize.atomic import check_apart, check_folder, check_space, whole_folder
from linnet.quantize.file_types import Chosen
from linnet.quantize.gguf_tensors import Tensor, place_of, rearranged_tensors, stored_tensors
from linnet.quantize.progress import counter
from linnet.quantize.safetensors_writer import SafetensorsWriter
from linnet.quantize.same_model import differences
from linnet.quantize.stream import entry_of, write_tensors
from linnet.quantize.tokenizer_files import tokenizer_files
from linnet.tensors import BF16, F16, F32, TensorType
from linnet.text.tokenizer import Tokenizer

DTYPES = {"f16": F16, "bf16": BF16, "f32": F32}
_TORCH_NAMES = {F16: "float16", BF16: "bfloat16", F32: "float32"}
_KEPT_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class ConvertReport:
    """What was written. nbytes: of the tensors. notes: sentences that a user should read."""

    model: str
    out: str
    model_type: str
    dtype: str
    parameters: int
    nbytes: int
    notes: list[str]
    seconds: float

    def record(self) -> dict[str, Any]:
        """The report as plain values, to be written as JSON."""
        return asdict(self)


def convert(
    model: str | Path,
    out: str | Path,
    dtype: str = "f16",
    *,
    tokenizer: Any = None,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes any model that `LLM` opens as a Hugging Face folder: config.json, model.safetensors, tokenizer files.

    dtype: "f16", "bf16" or "f32", of every tensor; block types are decoded. tokenizer: replaces the model's own. force: replaces an
    existing folder. The folder gets its name once it is complete. Raises InvalidRequestError for wrong options, paths that cannot be
    written and full disks, ModelFileError for files that cannot be read, and UnsupportedModelError for a family that transformers lacks.
    """
    if dtype not in DTYPES:
        raise InvalidRequestError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    ModelOptions(threads=threads)  # refuses what is no number of them
    place = Path(out).expanduser()
    check_folder(place, force)
    check_apart({"OUT": place}, {"MODEL": locate(model)})
    started = time.monotonic()
    checkpoint = open_checkpoint(model)
    try:
        read = None if tokenizer is None and _is_folder(checkpoint) else read_tokenizer(checkpoint, tokenizer)
        config, tensors, notes = _said(checkpoint, DTYPES[dtype])
        chosen = [Chosen(tensor, DTYPES[dtype]) for tensor in tensors]
        nbytes = sum(entry_of(one).nbytes for one in chosen)
        check_space(place, nbytes)
        with whole_folder(place, force) as folder:
            own = checkpoint.metadata if tokenizer is None else None
            notes += _write_beside(checkpoint, folder, config, read, own)
            _write_tensors(folder / "model.safetensors", chosen, threads or default_threads(), progress)
    finally:
        checkpoint.close()
    parameters = sum(tensor.values for tensor in tensors)
    seconds = time.monotonic() - started
    return ConvertReport(checkpoint.name, str(place), str(config["model_type"]), dtype, parameters, nbytes, notes, seconds)


def _is_folder(checkpoint: Checkpoint) -> bool:
    return checkpoint.path is not None and (checkpoint.path / "config.json").is_file()


def _said(checkpoint: Checkpoint, dtype: TensorType) -> tuple[dict[str, Any], list[Tensor], list[str]]:
    """The content of config.json, the tensors, and notes."""
    slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
    if _is_folder(checkpoint):
        assert checkpoint.path is not None
        config = read_json(checkpoint.path / "config.json")
        quantized = config.pop("quantization_config", None)
        if quantized and quantized.get("quant_method") != "fp8":  # fp8 is read as the values that it stands for
            raise UnsupportedModelError(f"{checkpoint.name}: quantization_config: weights in a format of their own are not converted")
        config.pop("torch_dtype", None)
        return {**config, "dtype": _TORCH_NAMES[dtype]}, stored_tensors(checkpoint, slots), []
    stored = {place_of(slot): slot for slot in slots}
    refusals = []
    for way in hf_configs(checkpoint.spec, stored):
        try:
            said, table = build(Config(way.values, "config.json"))
        except LinnetError as error:
            refusals.append(str(error))
            continue
        lost = list(differences(checkpoint.spec, said))
        tensors = _tensors(said, table, stored)
        held = {place_of(slot) for held in tensors.values() for slot in held}
        lost += [f"{place[1]} has no place" for place in stored if place not in held]
        if not lost:
            config = {"architectures": [way.architecture], **way.values, "dtype": _TORCH_NAMES[dtype], **_ids(checkpoint)}
            return config, rearranged_tensors(checkpoint, tensors, stored, said), []
        refusals.append("; ".join(lost[:5]))
    why = "; or ".join(dict.fromkeys(refusals)) or f"families that are converted: {', '.join(CONVERTED)}"
    raise UnsupportedModelError(f"{checkpoint.name}: transformers has no words for this model ({checkpoint.spec.family}): {why}")


def _tensors(said: ModelSpec, table: Table, stored: Mapping[Place, Slot]) -> dict[str, list[Slot]]:
    """The fields that each tensor holds, by the tensor's name: those that the model has, and those that the family always has."""
    tensors: dict[str, list[Slot]] = {}
    for row, slot in wanted(said, table, "hf"):
        if place_of(slot) in stored or not row.optional:
            for name in slot.names:
                tensors.setdefault(name, []).append(slot)
    return tensors


def _ids(checkpoint: Checkpoint) -> dict[str, Any]:
    """The ids of tokens that config.json names; null where there is none: families have defaults, past small vocabularies."""
    ends, metadata = list(checkpoint.eos_token_ids), checkpoint.metadata or {}
    begin, pad = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "padding"))
    return {"bos_token_id": begin, "eos_token_id": (ends[0] if len(ends) == 1 else ends) if ends else None, "pad_token_id": pad}


def _write_beside(
    checkpoint: Checkpoint, folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer | None, said: Mapping[str, Any] | None
) -> list[str]:
    """All files but the tensors; gives notes. tokenizer: None where the model's own files are copied, or there is none. said: GGUF's
    metadata that has it, if so."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if tokenizer is None and _is_folder(checkpoint):
        assert checkpoint.path is not None
        kept = [checkpoint.path / name for name in _KEPT_FILES] + sorted(checkpoint.path.glob("*.tiktoken"))
        for file in filter(Path.is_file, kept):
            shutil.copyfile(file, folder / file.name)
        return []
    generation = checkpoint.generation or _ids(checkpoint)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(dict(generation), indent=2) + "\n", "utf-8")
    if tokenizer is None:
        return ["the model has no tokenizer"]
    files, notes = tokenizer_files(tokenizer, checkpoint.spec.vocab_size, said)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return notes


def _write_tensors(path: Path, chosen: list[Chosen], threads: int, progress: Progress | None) -> None:
    advance = counter(progress, "writing", sum(one.tensor.values for one in chosen))
    with path.open("wb", buffering=1 << 20) as file:
        write_tensors(SafetensorsWriter(file, [entry_of(one) for one in chosen]), chosen, {}, threads, advance)
