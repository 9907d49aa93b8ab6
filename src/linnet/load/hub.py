"""Finding a model by what the user calls it: "tiny", a path, or a hub id whose files the local cache holds. No network."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from linnet.errors import ModelFileError

BUILT_IN = "tiny"

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
"""Of plain PyTorch checkpoints: out/ckpt.pt is no hub id."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(model: str | Path) -> Path:
    """The folder or file that `model` names, in this order: the built-in model, a path, a hub id in the local cache.

    Raises ModelFileError, with the remedy, where there is none.
    """
    if model == BUILT_IN:
        return _built_in()
    try:
        path = Path(model).expanduser()
        exists = bool(str(model)) and path.exists()
        (path / "config.json").exists()  # of a folder that may not be looked into
    except (OSError, RuntimeError, ValueError) as error:  # too long, not allowed, an unknown ~user
        raise ModelFileError(f"{str(model)[:200]!r}: not a file or folder that can be opened ({error})") from error
    if exists:
        return path
    if isinstance(model, str) and _HUB_ID.fullmatch(model) and path.suffix not in (".gguf", *TORCH_SUFFIXES):
        return _cached(model)
    raise ModelFileError(f"{str(model)!r}: no such file or folder, and not a hub id (owner/name)")


def _built_in() -> Path:
    """`models/tiny` inside the package or, in a checkout, beside `src`."""
    package = [Path(entry) for entry in import_module("linnet").__path__]
    places = [root / "models" / BUILT_IN for root in (*package, *(entry.parent.parent for entry in package))]
    for place in places:
        if place.is_dir():
            return place
    raise ModelFileError(f"the built-in model is not installed; looked in {', '.join(map(str, places))}")


def _cached(model: str) -> Path:
    """The snapshot of a hub id's main branch in the local Hugging Face cache, whose layout is
    models--owner--name/refs/main (a commit) and models--owner--name/snapshots/<commit>/."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text("utf-8").strip()
        if commit and (folder / "snapshots" / commit).is_dir():
            return folder / "snapshots" / commit
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # not allowed; not UTF-8
        raise ModelFileError(f"{model}: the Hugging Face cache {HF_HUB_CACHE} cannot be read ({error}); mend it") from error
    raise ModelFileError(
        f"{model}: no such file or folder, and not in the Hugging Face cache {HF_HUB_CACHE}; get it with: hf download {model}"
    )
