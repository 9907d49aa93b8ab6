"""From a folder to a `TextModel`: what transformers loads, after everything has been refused that can be without it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from linnet.backends.transformers.model import STRUCTURE, TextModel
from linnet.engine.memory_errors import planned, ran_out
from linnet.errors import InvalidRequestError, LinnetError, MissingDependencyError, ModelFileError, OutOfMemoryError, UnsupportedModelError
from linnet.load.files import check_regular, read_json
from linnet.load.hub import locate
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.ops.torch.devices import dtype_of, free_memory, open_device, usual_device

logger = logging.getLogger("linnet.llm")

MOST_LAYERS = 4096
"""Past any model; transformers makes every layer that a config.json asks for before it looks at the weights."""

LONGEST_UNTOLD = 4096
"""Tokens of an answer, or of a prompt and its answer, where a model's files set no end to them."""

_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length", "seq_length", "n_ctx")

T = TypeVar("T")


def find_folder(model: str | Path) -> Path:
    """The model's folder. Raises ModelFileError where there is none, UnsupportedModelError for a single file."""
    folder = locate(model)
    if not folder.is_dir():
        raise UnsupportedModelError(f"{folder}: backend='transformers' opens folders with a config.json; leave backend out for other files")
    try:
        files = [file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".bin", ".model") and not file.is_dir()]
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be read ({error.strerror})") from error
    for file in files:
        check_regular(file)
    return folder


def import_transformers() -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError:
        raise MissingDependencyError("backend='transformers' needs more packages: pip install \"linnet[transformers]\"") from None
    return transformers


def read_config(folder: Path, trusted: bool) -> Any:
    """The model's configuration, of a class of transformers', or, if `trusted`, of its own. Raises ModelFileError."""
    transformers = import_transformers()
    values = read_json(folder / "config.json")
    for name, count in _numbers(values):
        if "layer" in name and count > MOST_LAYERS:
            raise ModelFileError(f"{folder / 'config.json'}: {name} is {count}; the most is {MOST_LAYERS}")
    own_code, kind = isinstance(values.get("auto_map"), dict), values.get("model_type")
    if not trusted and own_code and kind not in transformers.CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"{folder}: transformers does not know the model type {str(kind)[:40]!r} and the folder's own code is not run; "
            "look at its .py files, and if you trust them say trust_remote_code=True (--trust-remote-code)"
        )
    if "quantization_config" in values:
        raise UnsupportedModelError(f"{folder}: its weights are quantized, which backend='transformers' does not open")
    config = loaded(lambda: transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted, local_files_only=True), folder)
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        # A file may name code on the hub here ("kernels-community/..."), which transformers would fetch and run unasked.
        for choice in ("_attn_implementation_internal", "_experts_implementation_internal"):
            if part is not None and getattr(part, choice, None) is not None:
                setattr(part, choice, None)
    return config


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Integers of a config and of those within it, by name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield name, value


def load(folder: Path, config: Any, options: ModelOptions) -> TextModel:
    """The model on its device. Raises OutOfMemoryError before it takes any memory, where that does not suffice."""
    import torch

    transformers = import_transformers()
    kind = _auto_class(config, folder, options.trust_remote_code)
    with torch.device("meta"), quiet():
        empty = loaded(lambda: kind.from_config(config, trust_remote_code=options.trust_remote_code), folder)
    count = sum(values.numel() for values in (*empty.parameters(), *empty.buffers()))
    device, dtype = _place(count, folder, options)
    with planned(str(folder), count * dtype.itemsize), quiet():
        how = {"config": config, "dtype": dtype, "local_files_only": True, "trust_remote_code": options.trust_remote_code}
        model, told = loaded(lambda: kind.from_pretrained(folder, output_loading_info=True, **how), folder)
        missing, unexpected = sorted(told["missing_keys"]), sorted(told["unexpected_keys"])
        if missing:
            raise ModelFileError(f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, {_some(missing)}")
        if unexpected:
            logger.warning("%s: %d weights are no part of %s: %s", folder, len(unexpected), type(model).__name__, _some(unexpected))
        model = model.to(device).eval()
    vocab = model.get_input_embeddings().num_embeddings
    structure, ends = _structure(model.generation_config, folder, vocab)
    pad = model.generation_config.pad_token_id
    model.generation_config = transformers.GenerationConfig()
    context, source = _contexts(config, folder, options)
    if source is not None and not {"decoder_start_token_id", "bos_token_id"} & structure.keys():
        raise ModelFileError(f"{folder}: says in no file with which token its decoder starts (decoder_start_token_id)")
    return TextModel(
        model=model,
        vocab_size=vocab,
        context=context,
        source_context=source,
        end_ids=ends,
        pad_id=pad if isinstance(pad, int) and 0 <= pad < vocab else min(ends, default=0),
        masks="attention_mask" in inspect.signature(model.forward).parameters,
        structure=structure,
    )


def _structure(found: Any, folder: Path, vocab: int) -> tuple[dict[str, Any], frozenset[int]]:
    """What of a GenerationConfig belongs to the model, and the tokens that end an answer."""
    structure = {name: value for name in STRUCTURE if (value := getattr(found, name, None)) not in (None, [])}
    ends = [] if found.eos_token_id is None else found.eos_token_id
    for name, value in {**structure, "eos_token_id": ends}.items():
        for token in _flat(value):
            if type(token) is not int or not 0 <= token < vocab:
                raise ModelFileError(f"{folder}: {name} is {str(token)[:40]}, which is no token id (0 to {vocab - 1})")
    return structure, frozenset(_flat(ends))


def _flat(value: Any) -> list[Any]:
    return [part for item in value for part in _flat(item)] if isinstance(value, list) else [value]


def _auto_class(config: Any, folder: Path, trusted: bool) -> Any:
    """The class that loads such a model: of those that make text."""
    transformers = import_transformers()
    kind = transformers.AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else transformers.AutoModelForCausalLM
    own = getattr(config, "auto_map", None) or {}
    known = type(config) in kind._model_mapping or (trusted and kind.__name__ in own)
    named = [name for name in getattr(config, "architectures", None) or [] if isinstance(name, str)]
    if not known or any("MaskedLM" in name for name in named):
        what = ", ".join(named) or str(getattr(config, "model_type", "?"))
        raise UnsupportedModelError(f"{folder}: {what[:100]} makes no text; backend='transformers' runs decoders and encoder-decoders")
    return kind


def _place(count: int, folder: Path, options: ModelOptions) -> tuple[Any, Any]:
    """The device and the type of its numbers for a model of so many: as told, or else a GPU if all fits there, or else the processor,
    in bf16 where f32 does not fit. Raises OutOfMemoryError where the model does not fit at all."""
    name = usual_device() if options.device is None else options.device
    device = open_device(name)
    dtype = dtype_of(device, options.dtype)
    memory = free_memory(device) if device.type != "cpu" else available_memory()
    if options.device is None and device.type != "cpu" and memory is not None and count * dtype.itemsize > memory:
        logger.warning("device cpu: the weights take %d bytes and %s has %d free; device= overrides", count * dtype.itemsize, name, memory)
        device, memory = open_device("cpu"), available_memory()
        dtype = dtype_of(device, options.dtype)
    if options.dtype is None and device.type == "cpu" and memory is not None and count * dtype.itemsize > memory:
        dtype = dtype_of(device, "bf16")
        logger.warning("dtype bf16: in f32 the weights take %d bytes and %d can be taken; dtype='f32' overrides", 4 * count, memory)
    if memory is not None and count * dtype.itemsize > memory:
        least = " or dtype='bf16'" if dtype.itemsize == 4 else ""
        raise OutOfMemoryError(
            f"{folder}: its weights take {count * dtype.itemsize} bytes in {dtype} and {memory} can be taken on {device}; choose a smaller "
            f"model{least}, or free memory"
        )
    return device, dtype


def _contexts(config: Any, folder: Path, options: ModelOptions) -> tuple[int, int | None]:
    """The context, and an encoder's; see `TextModel`."""
    parts = [config.get_text_config(decoder=True)] if hasattr(config, "get_text_config") else []
    relative = hasattr(config, "relative_attention_num_buckets")  # T5 and its kin: positions have no end
    told = None if relative else next((n for c in (*parts, config) for key in _POSITIONS if (n := _count(c, key)) is not None), None)
    if options.context is not None and told is not None and options.context > told:
        raise InvalidRequestError(f"context is {options.context} and the model was made for {told}; lower it")
    if told is None and options.context is None:
        logger.info("%s: its files set no end to its context: up to %d tokens unless context= says more", folder, LONGEST_UNTOLD)
    context = options.context or told or LONGEST_UNTOLD
    if not getattr(config, "is_encoder_decoder", False):
        return context, None
    return context, _count(config, "max_source_positions") or _count(config, "max_encoder_position_embeddings") or told or 2**20


def _count(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if type(value) is int and value > 0 else None


def loaded(load: Callable[[], T], folder: Path) -> T:
    """What `load` gives, of transformers', whose own errors become ours."""
    try:
        return load()
    except LinnetError:
        raise
    except ImportError as error:
        raise MissingDependencyError(f"{folder}: transformers needs another package for this model: {_first_line(error)}") from error
    except Exception as error:
        if ran_out(error):
            raise
        raise ModelFileError(f"{folder}: transformers cannot load it ({type(error).__name__}: {_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:300]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings, as a library is; its errors come as exceptions."""
    from transformers.utils import logging

    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
