"""Plain PyTorch checkpoints: what a file of torch.save says of its model besides tensors, as a `Config`.

Three kinds are known: {"model": ..., "config" or "model_args": ...} as nanoGPT and its kin save, {"h_params": ...,
"model_state_dict": ...} of from-scratch tutorials, and nanochat's model_<step>.pt with its meta_<step>.json.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from linnet.arch.config import Config
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.files import read_json
from linnet.load.torch_file import TorchSource, load_torch_file

log = logging.getLogger("linnet.load")

_STEP = re.compile(r"model_(\d+)\.pt")
_GPT2_VOCABULARY = 50_257
_KNOWN = (
    '{"model": state_dict, "config" or "model_args": {...}}, {"h_params": {...}, "model_state_dict": ...}, '
    "nanochat's model_<step>.pt beside meta_<step>.json"
)


@dataclass(frozen=True)
class TorchCheckpoint:
    """tokenizer: a file or folder that the checkpoint names, or that lies beside it. encoding: what such models take where nothing
    says otherwise. slides: whether the code that it comes from goes on past the context, see `LLM`'s option overflow."""

    config: Config
    source: TorchSource
    tokenizer: Path | None = None
    encoding: str | None = None
    slides: bool = False


def read_torch_checkpoint(path: Path) -> TorchCheckpoint:
    """Opens a file of torch.save that holds a whole model. Raises ModelFileError for one that is damaged, holds other things than
    tensors and plain values, or lacks something (which it says), and UnsupportedModelError for one of another kind."""
    step = _STEP.fullmatch(path.name)
    if step is not None and (path.parent / f"meta_{step[1]}.json").is_file():
        return _nanochat(path, path.parent / f"meta_{step[1]}.json")
    saved = load_torch_file(path)
    if not isinstance(saved, Mapping):
        raise UnsupportedModelError(f"{path}: holds a {type(saved).__name__}, no checkpoint; known are {_KNOWN}")
    if "h_params" in saved or "model_state_dict" in saved:
        return _from_scratch(path, saved)
    if "model" in saved:
        return _nanogpt(path, saved)
    keys = ", ".join(str(key)[:40] for key in list(saved)[:8])
    hint = "; nanochat's needs its meta_<step>.json beside it" if step else ""
    raise UnsupportedModelError(
        f"{path}: a file of torch.save that does not say what model it is (it has {keys}){hint}; known are {_KNOWN}; "
        "other weights run by LLM.from_state_dict(config, state_dict)"
    )


def newest_step(folder: Path) -> Path | None:
    """nanochat's file of the last step in a folder, or None."""
    steps = {int(match[1]): file for file in folder.glob("model_*.pt") if (match := _STEP.fullmatch(file.name))}
    return steps[max(steps)] if steps else None


def _nanochat(path: Path, meta: Path) -> TorchCheckpoint:
    settings = read_json(meta).get("model_config")
    source = TorchSource(load_torch_file(path), str(path), path)
    config = _config("nanochat_torch", settings, f"{meta}: model_config", source)
    # Beside the model, or where nanochat's training has it: <base>/tokenizer, with models in <base>/<kind>_checkpoints/<tag>.
    places = [path.parent / "tokenizer.pkl", path.parent.parent.parent / "tokenizer" / "tokenizer.pkl"]
    return TorchCheckpoint(config, source, next((place for place in places if place.is_file()), None))


def _from_scratch(path: Path, saved: Mapping[str, Any]) -> TorchCheckpoint:
    source = TorchSource(_entry(path, saved, "model_state_dict"), f"{path}: model_state_dict", path)
    config = _config("from_scratch", _entry(path, saved, "h_params"), f"{path}: h_params", source)
    return TorchCheckpoint(config, source, _named_tokenizer(path, saved), "cl100k_base", slides=True)


def _nanogpt(path: Path, saved: Mapping[str, Any]) -> TorchCheckpoint:
    source = TorchSource(saved["model"], f"{path}: model", path)
    key = "model_args" if "model_args" in saved else "config"
    config = _config("nanogpt", _entry(path, saved, key), f"{path}: {key}", source)
    names = source.names()
    if "lm_head.weight" in names and "transformer.wte.weight" in names:
        config.assume(tie_word_embeddings=source.same_data("lm_head.weight", "transformer.wte.weight"))
    vocabulary = (source.shape("transformer.wte.weight") if "transformer.wte.weight" in names else ())[:1]
    return TorchCheckpoint(config, source, _named_tokenizer(path, saved), "gpt2" if vocabulary >= (_GPT2_VOCABULARY,) else None)


def _entry(path: Path, saved: Mapping[str, Any], key: str) -> Any:
    if key not in saved:
        raise ModelFileError(f"{path}: {key} is missing; it has {', '.join(str(key)[:40] for key in list(saved)[:8])}")
    return saved[key]


def _config(family: str, settings: Any, where: str, source: TorchSource) -> Config:
    if not isinstance(settings, Mapping):
        raise ModelFileError(f"{where}: a table of settings was expected, not {type(settings).__name__}")
    plain = {str(key): _setting(value, f"{where}: {str(key)[:60]}") for key, value in settings.items()}
    shapes = {name: source.shape(name) for name in source.names()}
    return Config(plain | {"model_type": family}, where, "torch", tensors=shapes)


def _setting(value: Any, where: str) -> Any:
    """A number, text or flag, or a flat list of these; dtypes and devices as texts."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(item is None or isinstance(item, (bool, int, float, str)) for item in value):
        return list(value)
    if type(value).__module__ == "torch" and type(value).__name__ in ("device", "dtype"):
        return str(value)
    raise ModelFileError(f"{where} is a {type(value).__name__}; a number, a text or a flag was expected")


def _named_tokenizer(path: Path, saved: Mapping[str, Any]) -> Path | None:
    """The file that tokenizer_path names, relative to the checkpoint; where it was on the machine that trained, its name beside it."""
    named = saved.get("tokenizer_path")
    if named is None:
        return None
    if not isinstance(named, str) or "\0" in named or len(named) > 4096:
        raise ModelFileError(f"{path}: tokenizer_path is no path")
    absolute = PurePosixPath(named).is_absolute() or PureWindowsPath(named).drive or PureWindowsPath(named).root
    places = [path.parent / PureWindowsPath(named).name]
    if not absolute:  # on Windows, an absolute path may name another machine
        places.insert(0, path.parent / named)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        log.warning("%s: its tokenizer_path, %r, is not there; pass tokenizer=", path, named)
    return found
